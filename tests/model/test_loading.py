"""What is refused when a model is loaded: each in one line that says what is there and what to do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import SIZES, make_model, wrap
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from splade_bench.errors import ConfigError, NotFiniteError
from splade_bench.model import SpladeEncoder
from splade_bench.model.miniature import miniature
from splade_bench.model.presets import build_preset
from splade_bench.model.weights import first_weight_not_finite, require_finite_weights

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438064459\n"


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A sound BERT."""
    path = tmp_path / "bert"
    wrap(tokenizer).save_pretrained(path)
    make_model("bert", vocab_size=len(wrap(tokenizer))).save_pretrained(path)
    return path


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refusal(name: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        SpladeEncoder.from_pretrained(str(name))
    text = str(caught.value)
    assert text.startswith(f"--model-name {name}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["bert.encoder.layer.1.output.dense.bias"][3] = value
        return weights

    change_weights(folder, spoil)

    assert "its weight bert.encoder.layer.1.output.dense.bias is not finite" in refusal(folder)


def test_weights_that_are_not_finite_are_not_saved(encoder: SpladeEncoder) -> None:
    require_finite_weights(encoder)
    assert first_weight_not_finite(encoder) is None

    with torch.no_grad():
        encoder.decoder.bias[0] = float("nan")

    with pytest.raises(NotFiniteError, match=r"decoder\.bias is not finite"):
        require_finite_weights(encoder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()

    assert "no tokenizer files in the folder" in refusal(folder)


def test_an_adapter_is_refused_whatever_is_beside_it(folder: Path) -> None:
    """Its folder has no model of its own; transformers would load its base model, or a model that is beside it."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "bert"}))
    wanted = "its adapter_config.json says that it is an adapter (PEFT, LoRA), not a whole model; merge it into its"
    assert wanted in refusal(folder)

    for path in folder.iterdir():
        if path.name != "adapter_config.json":
            path.unlink()
    assert wanted in refusal(folder), "the first thing that is wrong"


class Gated(GatedRepoError):
    def __init__(self) -> None:
        Exception.__init__(self, "403")


class Unknown(RepositoryNotFoundError):
    def __init__(self) -> None:
        Exception.__init__(self, "404")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Gated(), "it is gated: accept its terms on its page on the Hugging Face Hub, and log in"),
        (Unknown(), "no such model on the Hugging Face Hub, or it is private; check the name, or log in"),
        (LocalEntryNotFoundError("x"), "the Hub cannot be reached, or HF_HUB_OFFLINE is set; check the name, or go"),
    ],
    ids=["gated", "missing", "offline"],
)
def test_a_model_that_the_hub_does_not_give_is_refused_with_what_to_do(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", fail)

    assert reason in refusal("someone/nosuch")


def test_a_folder_that_is_not_that_of_a_model_is_named(folder: Path) -> None:
    assert f"there is no config.json in the folder, so it is not that of a model; did you mean {folder}?" in refusal(
        folder.parent
    )

    (folder / "config.json").unlink()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "not that of a model; check the path" in refusal(folder), "the first thing that is wrong"


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path) -> None:
    """transformers 5 makes one of the special tokens alone, under which every word is unknown."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))

    assert "its tokenizer has 5 tokens, but the model has embeddings for" in refusal(folder)


def test_a_tokenizer_that_is_far_too_small_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    size = len(wrap(tokenizer))
    make_model("bert", vocab_size=2 * size).save_pretrained(folder)
    SpladeEncoder.from_pretrained(str(folder))  # embeddings may be padded

    make_model("bert", vocab_size=2 * size + 1).save_pretrained(folder)

    assert f"its tokenizer has {size} tokens, but the model has embeddings for {2 * size + 1}" in refusal(folder)


def test_a_preset_that_was_trained_on_few_words_loads_again(folder: Path, tokenizer: Tokenizer) -> None:
    encoder = build_preset("toy", tokenizer, seed=0)
    assert len(encoder.tokenizer) < encoder.vocab_size / 2

    encoder.save_pretrained(folder / "toy")

    assert SpladeEncoder.from_pretrained(str(folder / "toy")).vocab_size == encoder.vocab_size


def test_the_tensors_of_a_pickle_are_read(folder: Path) -> None:
    """SPLADE's own models have no other weights."""
    expected = SpladeEncoder.from_pretrained(str(folder)).state_dict()
    pickle_weights(folder, load_file(folder / "model.safetensors"))

    loaded = SpladeEncoder.from_pretrained(str(folder))

    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())
    loaded.save_pretrained(folder / "again")
    assert (folder / "again" / "model.safetensors").is_file()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(folder: Path) -> None:
    ran = folder / "ran"
    pickle_weights(folder, load_file(folder / "model.safetensors") | {"bert.canary": Payload(ran)})
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert ran.exists(), "the canary does not sing"
    ran.unlink()

    text = refusal(folder)

    assert "its weights are a pickle with more than tensors in it" in text
    assert "weights_only" not in text
    assert not ran.exists()


def test_a_damaged_pickle_is_refused(folder: Path) -> None:
    pickle_weights(folder, load_file(folder / "model.safetensors"))
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:5000])

    assert "cannot be loaded" in refusal(folder)


def pickle_weights(folder: Path, weights: dict[str, Any]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_weights_that_are_tied_the_other_way_round_are_whole(folder: Path) -> None:
    """As of a model that was converted by hand: the decoder's weight is there, the embeddings' is not."""
    expected = SpladeEncoder.from_pretrained(str(folder)).decoder.weight
    embeddings = "bert.embeddings.word_embeddings.weight"
    change_weights(
        folder,
        lambda weights: {
            "cls.predictions.decoder.weight" if name == embeddings else name: weight for name, weight in weights.items()
        },
    )

    encoder = SpladeEncoder.from_pretrained(str(folder))

    assert encoder.body.get_input_embeddings().weight is encoder.decoder.weight
    assert torch.equal(encoder.decoder.weight, expected)


def test_a_second_head_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """BERT's own checkpoints have one for the next sentence."""
    config = transformers.BertConfig(**SIZES | {"vocab_size": len(wrap(tokenizer))})
    transformers.BertForPreTraining(config).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    encoder = SpladeEncoder.from_pretrained(str(tmp_path))

    assert type(encoder.body).__name__ == "BertForMaskedLM"
    assert encoder.decoder.out_features == config.vocab_size


def name_own_code(folder: Path, **changes: Any) -> Path:
    """Let a config and a tokenizer name code of their own; the file that is made if that code runs."""
    for name, kinds in (("config.json", ("AutoConfig", "AutoModelForMaskedLM")), ("tokenizer_config.json", ())):
        path = folder / name
        settings = json.loads(path.read_text()) | (changes if kinds else {})
        settings["auto_map"] = {kind: "canary.Own" for kind in kinds} or {"AutoTokenizer": [None, "canary.Own"]}
        path.write_text(json.dumps(settings))
    ran = folder / "ran"
    (folder / "canary.py").write_text(f"open({str(ran)!r}, 'w')")
    return ran


@pytest.mark.parametrize("architecture", ["bert", "nomic_bert", "gte", "eurobert", "jina_embeddings_v3"])
def test_code_of_its_own_is_not_needed_where_transformers_has_the_class(
    architecture: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    if architecture not in transformers.CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    config = miniature(transformers.CONFIG_MAPPING[architecture](), vocab_size=len(wrap(tokenizer)))
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)
    ran = name_own_code(tmp_path)

    encoder = SpladeEncoder.from_pretrained(str(tmp_path))
    encoder.save_pretrained(tmp_path / "saved")

    assert type(encoder.body).__module__.startswith("transformers.models.")
    assert not ran.exists()
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "saved" / name).read_text()), name


def test_code_of_its_own_is_refused_where_transformers_has_no_class(folder: Path) -> None:
    ran = name_own_code(folder, model_type="frob")

    with pytest.raises(ConfigError, match="auto_map names custom code, which never runs here"):
        SpladeEncoder.from_pretrained(str(folder))

    assert not ran.exists()


def test_weights_that_only_code_of_its_own_has_a_place_for_are_refused(folder: Path) -> None:
    """Such as another model that says it is a BERT."""
    name_own_code(folder)
    change_weights(folder, lambda weights: weights | {"bert.encoder.layer.0.gate.weight": torch.ones(3)})

    text = refusal(folder)

    assert "bert.encoder.layer.0.gate.weight" in text
    assert "BertForMaskedLM does not have" in text


def test_a_type_without_masked_language_models_is_named(folder: Path) -> None:
    transformers.GPT2Config().save_pretrained(folder)

    assert "transformers has no masked-language model of the type gpt2" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(LFS_POINTER)

    assert f"{name} is a Git LFS pointer, not the file itself; run git lfs pull" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_this_user_may_not_read_is_named(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def denied(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", denied)  # root may read everything

    assert f"cannot be read: {folder / name}: Permission denied" in refusal(folder)


def test_weights_of_other_shapes_are_called_so(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 8}))

    assert "its weights have other shapes than its config.json says" in refusal(folder)


def test_a_weight_that_is_missing_in_the_body_is_not_called_a_missing_head(folder: Path) -> None:
    lost = "bert.encoder.layer.0.output.LayerNorm.weight"
    change_weights(folder, lambda weights: {name: weight for name, weight in weights.items() if name != lost})

    text = refusal(folder)

    assert f"its weights are incomplete: none for {lost}" in text
    assert "head" not in text


def test_the_prefix_of_a_wrapped_model_is_shown(folder: Path) -> None:
    change_weights(folder, lambda weights: {f"module.{name}": weight for name, weight in weights.items()})

    assert "the file has module.bert." in refusal(folder)


@pytest.mark.parametrize("name", ["./nosuch", "/nosuch", "../nosuch/model", "a/b/c"])
def test_a_path_without_a_folder_is_not_taken_for_a_hub_id(name: str) -> None:
    assert "there is no such folder; check the path" in refusal(name)


def test_a_missing_folder_beside_others_is_not_taken_for_a_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)

    assert "there is no such folder" in refusal("bert/final_model")


def test_an_architecture_whose_decoder_cannot_be_taken_out_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """MobileBERT multiplies with its decoder's weight, and never calls the decoder."""
    size = len(wrap(tokenizer))
    config = transformers.MobileBertConfig(
        **SIZES | {"vocab_size": size, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1}
    )
    transformers.MobileBertForMaskedLM(config).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    assert "MobileBertForMaskedLM cannot be used here, because its output embeddings" in refusal(tmp_path)


def test_the_positions_of_roformer_are_known(tokenizer: Tokenizer) -> None:
    config = transformers.RoFormerConfig(**SIZES | {"max_position_embeddings": 24})
    encoder = SpladeEncoder(transformers.RoFormerForMaskedLM(config), wrap(tokenizer))

    assert encoder.position_limit == 24
    with pytest.raises(ConfigError, match="takes at most 24 tokens"):
        encoder.require_positions(25)


def test_attention_that_is_code_on_the_hub_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "kernels-community/flash-attn2"}))

    with pytest.raises(
        ConfigError, match="names the attention kernels-community/flash-attn2, which is code on the Hub"
    ):
        SpladeEncoder.from_pretrained(str(folder))


def test_a_tokenizer_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert refusal(folder).startswith(f"--model-name {folder}: its tokenizer cannot be loaded: ")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer cannot be loaded: Couldn't instantiate the backend tokenizer from one of: (" in refusal(folder)


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")

    with pytest.raises(ConfigError, match=r"bert/config\.json: is not JSON: .*; save the model again"):
        SpladeEncoder.from_pretrained(str(folder))


def test_weights_that_the_config_has_no_place_for_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    SpladeEncoder.from_pretrained(str(folder))
    assert not caplog.records
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))

    SpladeEncoder.from_pretrained(str(folder))

    assert [record.getMessage() for record in caplog.records if "has no place for; they are left out" in record.message]


def test_a_tokenizer_without_padding_gets_some_for_those_who_read_what_is_saved(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    wrapped = wrap(tokenizer)
    wrapped.pad_token = None
    wrapped.save_pretrained(folder)

    SpladeEncoder.from_pretrained(str(folder)).save_pretrained(tmp_path / "saved")

    saved = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    assert saved.pad_token in wrapped.all_special_tokens
    assert len(saved(["opens", "opens the parser"], padding=True)["input_ids"]) == 2
