import asyncio
import logging
import unittest


class Server(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.answers = {"a": 1}

    async def asyncSetUp(self):
        self.queue = asyncio.Queue()
        self.addAsyncCleanup(self.close)

    async def close(self):
        self.queue = None

    async def test_answers(self):
        await self.queue.put("a")
        self.assertEqual(self.answers[await self.queue.get()], 1)

    async def test_times_out(self):
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.queue.get(), 0.01)

    async def test_fails(self):
        self.assertEqual(await asyncio.sleep(0, 2), 3)

    @unittest.expectedFailure
    def test_is_known_to_fail(self):
        self.fail()

    @unittest.skip("needs a network")
    def test_is_skipped(self):
        self.fail()

    def test_parts(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertLess(number, 3)


class Log(unittest.TestCase):
    def setUp(self):
        self.before = logging.root.level

    def tearDown(self):
        self.assertEqual(logging.root.level, self.before)

    def test_is_written(self):
        with self.assertLogs("server", "INFO") as logs:
            logging.getLogger("server").info("started")
        self.assertEqual(len(logs.output), 1)


def test_a_coroutine_beside_the_classes():
    assert asyncio.run(asyncio.sleep(0, "done")) == "done"
