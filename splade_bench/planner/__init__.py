"""Peak memory before anything is allocated: the trainer's own step on fake tensors, and models of allocators."""
