"""Which models and settings suit a machine: the best of each kind that fits and is fast enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

from vllm_obtain.doctor.capacity import Capacity, capacity
from vllm_obtain.engines.detect_judge import Facts
from vllm_obtain.engines.llama_cpp_sizing import KV_MEMORY_FRACTION
from vllm_obtain.engines.mlx_sizing import PADDING
from vllm_obtain.engines.vllm_sizing import GPU_OVERHEAD
from vllm_obtain.fetching import forms
from vllm_obtain.fetching.known import Entry, Form, Kind, Known, Offer
from vllm_obtain.hardware import Machine
from vllm_obtain.settings import Settings

# A conversation, and what a tool that writes code sends of a project.
_CONTEXT, _CODER_CONTEXT = 8192, 16_384
# Bytes a token takes in the cache of a model that does not say: as much as the largest that do.
_CAREFUL_CACHE: Final = 320 * 1024
# Tokens per second below which nobody wants to wait, and below which long answers need patience.
_LEAST_SPEED, _SLOW = 6, 15
# What a decoder reaches of its memory's speed.
_REACHED: Final = 0.6
# Of the largest that fits: what is nearly as large, with a part of it at work, serves better.
_NEARLY_AS_LARGE: Final = 0.85
_ACCELERATED: Final = {"mps": "metal", "cuda": "cuda", "cpu": "cpu"}
_PATIENCE: Final = 900


@dataclass(frozen=True)
class Pick:
    """A model that suits this machine.

    Args:
        name: as `pull` knows it.
        kind: what it is best at.
        about: what it is, in a line.
        engine: what would serve it.
        ready: whether that engine is installed.
        format: of the files to fetch.
        size_bytes: to fetch.
        memory_bytes: that it takes with `context` tokens, about.
        context: tokens it can hold here.
        here: whether it is on this disk already.
        command: what fetches it.
    """

    name: str
    kind: Kind
    about: str
    engine: str
    ready: bool
    format: Form
    size_bytes: int
    memory_bytes: int
    context: int
    here: bool
    command: str


@dataclass(frozen=True)
class Advised:
    """A setting worth changing: its name, its value, and why."""

    name: str
    value: str
    why: str


@dataclass
class Recommendation:
    """What suits this machine.

    Args:
        level: the machine's class.
        memory_bytes: that models may take together.
        models: the best of each kind; none where nothing fits.
        settings: those worth changing.
    """

    level: str
    memory_bytes: int
    models: list[Pick] = field(default_factory=list)
    settings: list[Advised] = field(default_factory=list)


@dataclass(frozen=True)
class _Way:
    """An engine that would compute on the best device here, and a format it loads."""

    engine: str
    form: Form
    ready: bool


def recommend(
    machine: Machine,
    settings: Settings,
    engines: Sequence[Facts],
    known: Known,
    here: Iterable[str] = (),
) -> Recommendation:
    """Choose models and settings.

    Args:
        machine: for which machine.
        settings: its owner's.
        engines: what is known of the engines there, the preferred one first.
        known: the names that can be pulled.
        here: the names of the models that are on the disk.
    """
    has = capacity(machine, settings)
    ways = list(_ways(engines, has))
    there = {name.casefold() for name in here}
    made = Recommendation(has.level, has.memory)
    for kind in get_args(Kind):
        found = _best(kind, known, ways, has)
        if found is None:
            continue
        name, entry, way = found
        made.models.append(_pick(name, entry, way, has, settings, name.casefold() in there))
    made.settings = list(_settings(made.models, known, settings, has, machine))
    return made


def _ways(engines: Sequence[Facts], has: Capacity) -> Iterator[_Way]:
    """List the engines that compute on the best device; else the one that could be installed."""
    device = _ACCELERATED[has.device]
    able = [each for each in engines if each.reason is None and each.device == device]
    # An engine without a GPU's code is no reason to leave the GPU alone.
    ahead = [each for each in engines if each.install and each.engine in forms.LOADS]
    for each in able or ahead[:1]:
        for form in forms.LOADS.get(each.engine, ()):
            yield _Way(each.engine, form, bool(able))


def _best(
    kind: Kind, known: Known, ways: Sequence[_Way], has: Capacity
) -> tuple[str, Entry, _Way] | None:
    found = []
    for name, entry in known.models.items():
        if entry.kind != kind:
            continue
        way = next((each for each in ways if _suits(entry, each, has)), None)
        if way is not None:
            found.append((name, entry, way))
    if not found:
        return None
    largest = max(entry.parameters for _, entry, _ in found)
    near = [each for each in found if each[1].parameters >= largest * _NEARLY_AS_LARGE]
    sparse = [each for each in near if each[1].active]
    return max(sparse or near, key=lambda each: each[1].parameters)


def _suits(entry: Entry, way: _Way, has: Capacity) -> bool:
    offer = entry.offers.get(way.form)
    if offer is None or not _knows(entry, way.engine):
        return False
    fast = entry.kind == "embedding" or _speed(entry, offer, has) >= _LEAST_SPEED
    return fast and _holds(entry, offer, way.engine, has) >= _usable(entry)


def _knows(entry: Entry, engine: str) -> bool:
    """Whether an engine serves this kind of model; docs/models.md says which sees and embeds."""
    if engine != "mlx":
        return True
    return entry.kind != "vision" and (entry.kind != "embedding" or entry.family == "bert")


def _usable(entry: Entry) -> int:
    """Tokens below which a model of its kind is of no use."""
    return min(entry.context, _CODER_CONTEXT if entry.kind == "coder" else _CONTEXT)


def _weights(offer: Offer, engine: str, has: Capacity) -> int:
    if engine == "vllm" and has.device == "cuda":
        return offer.size + GPU_OVERHEAD * has.cards
    return offer.memory


def _cache(entry: Entry) -> int:
    return entry.cache or (0 if entry.family == "bert" else _CAREFUL_CACHE)


def _holds(entry: Entry, offer: Offer, engine: str, has: Capacity) -> int:
    """Tokens that there is room for, by the rules that the engines are sized by."""
    left = has.memory - _weights(offer, engine, has)
    if left < 0:
        return 0
    if engine == "mlx":
        left = int(left / PADDING)
    if engine == "llama_cpp":
        left = min(left, int(has.ram * KV_MEMORY_FRACTION))
    per_token = _cache(entry)
    return min(entry.context, left // per_token) if per_token else entry.context


def _speed(entry: Entry, offer: Offer, has: Capacity) -> float:
    """Tokens per second of one answer, about: each one reads the weights that are at work."""
    read = offer.size * (entry.active or entry.parameters) / entry.parameters
    return _REACHED * has.bandwidth * 1e9 / read


def _pick(
    name: str, entry: Entry, way: _Way, has: Capacity, settings: Settings, here: bool
) -> Pick:
    offer = entry.offers[way.form]
    context = _holds(entry, offer, way.engine, has)
    taken = _weights(offer, way.engine, has) + _usable(entry) * _cache(entry)
    by_itself = next(form for form in forms.wanted(name, settings) if form in entry.offers)
    command = f"vllm-obtain pull {name}"
    if by_itself != way.form:
        command += f" --format {way.form}"
    facts = (offer.size, taken, context, here, command)
    return Pick(name, entry.kind, entry.about, way.engine, way.ready, way.form, *facts)


def _settings(
    picks: Sequence[Pick], known: Known, settings: Settings, has: Capacity, machine: Machine
) -> Iterator[Advised]:
    talking = [each for each in picks if each.kind != "embedding"]
    if not talking:
        return
    speeds = {
        each.name: _speed(known.models[each.name], known.models[each.name].offers[each.format], has)
        for each in talking
    }
    if not settings.default_model:
        quick = (each.name for each in talking if speeds[each.name] >= _SLOW)
        chosen = next(quick, max(speeds, key=lambda name: speeds[name]))
        why = "loaded at the start, and what requests without a name get"
        yield Advised("DEFAULT_MODEL", chosen, why)
    yield from _together(picks, settings, has)
    if has.cards > 1 and settings.vllm_tensor_parallel_size == 1:
        why = "a model is spread over these GPUs; the models above need that"
        yield Advised("VLLM_TENSOR_PARALLEL_SIZE", str(has.cards), why)
    if has.device == "cuda" and settings.workers == 1 and machine.cores_logical >= 8:
        yield Advised("WORKERS", "auto", "one gateway process is the limit of a big GPU")
    if min(speeds.values()) < _SLOW and settings.request_timeout < _PATIENCE:
        why = "a long answer of the slowest of these takes longer than the default"
        yield Advised("REQUEST_TIMEOUT", str(_PATIENCE), why)


def _together(picks: Sequence[Pick], settings: Settings, has: Capacity) -> Iterator[Advised]:
    """Have a model that embeds beside the one that talks, where both fit."""
    # vLLM gives each of several models an equal share of the GPU, which the large one would miss.
    if settings.max_concurrent_models > 1 or any(each.engine == "vllm" for each in picks):
        return
    embedding = [each for each in picks if each.kind == "embedding"]
    largest = max(each.memory_bytes for each in picks if each.kind != "embedding")
    if embedding and largest + embedding[0].memory_bytes <= has.memory:
        why = f"{embedding[0].name} fits beside each of the others"
        yield Advised("MAX_CONCURRENT_MODELS", "2", why)
