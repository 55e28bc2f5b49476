"""How engines of embedding models are chosen and sized."""

from __future__ import annotations

import json
from pathlib import Path

from tests.models.convert.bert_models import POSITIONS, SmallBert
from tests.models.gguf_files import write_gguf
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.embedding_limits import MAX_REQUESTS, MAX_TEXTS
from vllm_obtain.engines.llama_cpp import sizing as llama_cpp_sizing
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.mlx import sizing as mlx_sizing
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.engines.one_shot import vocabulary
from vllm_obtain.engines.vllm import sizing as vllm_sizing
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.models import kind as model_kind

CPU = Settings(device_type="cpu")
MACHINE = Machine("Linux", "x86_64", "A CPU", 4, 8, 4, 16 << 30)
CONTEXT = POSITIONS // 2


def bert(folder: Path) -> Model:
    SmallBert().write(folder / "small")
    return ModelCatalog(folder).find("small")


def test_only_llama_cpp_wants_another_form(tmp_path: Path) -> None:
    model = bert(tmp_path)
    assert LlamaCpp().why_not_loadable(model) and LlamaCpp().conversion_of(model) == "gguf"
    assert Mlx().why_not_loadable(model) is None and Vllm().why_not_loadable(model) is None
    (tmp_path / "other").mkdir()
    write_gguf(tmp_path / "other" / "a.gguf", {"general.architecture": "bert"})
    gguf = ModelCatalog(tmp_path / "other").find("a")
    assert LlamaCpp().why_not_loadable(gguf) is None
    assert Mlx().conversion_of(gguf) is None and Vllm().conversion_of(gguf) is None


def test_mlx_refuses_what_its_server_does_not_compute(tmp_path: Path) -> None:
    SmallBert(config={"architectures": ["NomicBertModel"]}).write(tmp_path / "small")
    assert "BertModel only" in (Mlx().why_not_loadable(ModelCatalog(tmp_path).find("small")) or "")


def test_a_text_of_any_length_fits_into_a_step(tmp_path: Path) -> None:
    model = bert(tmp_path)
    for sizing in (llama_cpp_sizing, mlx_sizing, vllm_sizing):
        limits = sizing.size(model, CPU, MACHINE).limits
        assert (limits.context, limits.slots) == (CONTEXT, MAX_REQUESTS)
        assert limits.pool_tokens == MAX_REQUESTS * CONTEXT
    few = Settings(device_type="cpu", max_concurrent_requests=2)
    assert llama_cpp_sizing.size(model, few, MACHINE).limits.slots == 2


def test_llama_cpp_pools_by_mean_where_the_file_is_silent(tmp_path: Path) -> None:
    write_gguf(tmp_path / "silent.gguf", {"general.architecture": "bert"})
    write_gguf(tmp_path / "says.gguf", {"llama.pooling_type": model_kind.LAST})
    found = ModelCatalog(tmp_path)
    silent = llama_cpp_sizing.size(found.find("silent"), CPU, MACHINE).parameters
    assert (silent["embedding"], silent["pooling"]) == (True, model_kind.MEAN)
    says = llama_cpp_sizing.size(found.find("says"), CPU, MACHINE).parameters
    assert (says["pooling"], says["n_parallel"]) == (None, MAX_TEXTS)
    assert says["n_ubatch"] == 512 and says["n_ctx"] == MAX_TEXTS * 512
    # A language model that embeds has a cache, which has to fit into little memory.
    little = Machine("Linux", "x86_64", "A CPU", 4, 8, 4, 2 << 20)
    tight = llama_cpp_sizing.size(found.find("says"), CPU, little).parameters
    assert tight["n_parallel"] == 3 and tight["n_ctx"] == 3 * 512


def test_vllm_pools(tmp_path: Path) -> None:
    model = bert(tmp_path)
    arguments = vllm_sizing.size(model, CPU, MACHINE).arguments
    assert arguments[:4] == ["--runner", "pooling", "--max-model-len", str(CONTEXT)]
    assert "float32" in arguments and "--enable-prefix-caching" not in arguments


def test_the_number_of_tokens_is_read_from_either_form(tmp_path: Path) -> None:
    assert vocabulary(bert(tmp_path)) == 10
    write_gguf(tmp_path / "a.gguf")
    assert vocabulary(ModelCatalog(tmp_path).find("a")) == 3


def test_names_of_tokens_become_their_texts() -> None:
    names = ["Ġhello", "<|im_end|>", "ĊĊ", "▁Paris", "##ing", "Ã©", "日"]
    message = {"tokens": [0] * 7, "token_strs": names}
    found = Vllm().read_tokens(json.dumps(message).encode())
    assert found.texts == [" hello", "<|im_end|>", "\n\n", " Paris", "##ing", "é", "日"]
