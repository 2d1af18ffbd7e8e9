"""What a compiled program does, read from its text: what moves between devices, what it holds, how
long the compiler believes it takes. Bodies of loops count as often as they run."""

import collections
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
# Pallas on TPU, cuDNN's attention, Pallas on GPU.
KERNEL = re.compile(r'custom_call_target="(?:tpu_custom_call|__cudnn\$fmha|mosaic_gpu)')
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16}  # else the digits of the name

_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)")
_OPERATION = re.compile(r" ([a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_SELDOM = re.compile(r"\bevery_(\d+)_steps\b")  # also "jvp(every_20_steps)/cond"
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """shape: the text of its type. operation: "fusion", "all-gather-start", ... text: the line."""

    name: str
    shape: str
    operation: str
    text: str

    @property
    def bytes(self) -> int:
        return shape_bytes(self.shape)

    @property
    def scope(self) -> str:
        """Where in the program it was traced, as "jit(step)/.../blocks/mlp/up/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""


class Visit(NamedTuple):
    """An instruction as often as it runs, a share where it is in one of several branches. loops:
    around it, outermost first. fused: the computation of the fusion that it is a part of, which has
    no memory of its own; "" outside of one."""

    instruction: Instruction
    turns: float
    loops: tuple[str, ...]
    fused: str


# What is chosen, among how many branches -> how often each of them is taken.
Taken = Callable[[Instruction, int], Sequence[float]]


def always(choice: Instruction, branches: int) -> Sequence[float]:
    """Each branch counts as if it always ran: nothing that may happen is missed."""
    return (1,) * branches


def typically(choice: Instruction, branches: int) -> Sequence[float]:
    """Each branch as often as the others; in a scope named as "every_20_steps" the second of two,
    which is jax.lax.cond's true one, in a twentieth of the steps."""
    if branches == 2 and (found := _SELDOM.search(choice.scope)):
        share = 1 / int(found[1])
        return (1 - share, share)
    return (1 / branches,) * branches


class Program:
    """The text of a compiled program (`compiled.as_text()`), taken apart."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.named: dict[str, Instruction] = {}
        self.entry, self._files = "", _sources(text)
        inside = None
        for line in text.splitlines():
            if (head := _HEAD.match(line)) and " = " not in line.partition("(")[0]:
                inside = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif inside is not None and (found := _INSTRUCTION.match(line)):
                instruction = _instruction(found[1], found[2])
                self.named[instruction.name] = instruction
                inside.append(instruction)

    def walk(self, taken: Taken = always) -> Iterator[Visit]:
        """Every instruction that may run. taken: how often each branch of a choice is."""
        yield from self._walk(self.entry, 1, (), "", taken)

    def _walk(self, computation, turns, loops, fused, taken):
        for instruction in self.computations.get(computation, ()):
            yield Visit(instruction, turns, loops, fused)
            if instruction.operation == "while":
                body = re.search(r"body=%?([\w.-]+)", instruction.text)[1]
                count = self.trips(instruction)
                yield from self._walk(body, turns * count, (*loops, body), fused, taken)
            elif instruction.operation == "conditional":
                names = re.findall(r"%([\w.-]+)", _branches(instruction.text))
                for name, share in zip(names, taken(instruction, len(names)), strict=True):
                    yield from self._walk(name, turns * share, loops, fused, taken)
            elif instruction.operation in ("fusion", "call") or "async" in instruction.operation:
                # Not what a reduction applies to each pair of numbers.
                for name in _CALLED.findall(instruction.text):
                    inner = name if instruction.operation == "fusion" else fused
                    yield from self._walk(name, turns, loops, inner, taken)

    def trips(self, loop: Instruction) -> int:
        """How often a loop turns: what the compiler knows, else the bound of its condition."""
        if found := _TRIPS.search(loop.text):
            return int(found[1])
        condition = re.search(r"condition=%?([\w.-]+)", loop.text)[1]
        text = "\n".join(line.text for line in self.computations[condition])
        return max(map(int, re.findall(r"constant\((\d+)\)", text)), default=1)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """What an instruction takes."""
        after = instruction.text.partition(f" {instruction.operation}(")[2]
        names = re.findall(r"%([\w.-]+)", after.partition(")")[0])
        return [self.named[name] for name in names if name in self.named]

    def line(self, instruction: Instruction) -> str:
        """file:line that makes it, "" where the compiler keeps none."""
        if found := re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.text):
            return f"{_short(found[1])}:{found[2]}"
        found = re.search(r"stack_frame_id=(\d+)", instruction.text)
        return self._files.get(int(found[1]), "") if found else ""


class Collective(NamedTuple):
    """One place in a program where devices send one another something. bytes: of what goes in or
    what comes out of one run on one device, the larger. turns: runs in a step. asynchronous:
    whether something else is computed meanwhile. loops: around it, outermost first."""

    kind: str
    bytes: int
    turns: int
    asynchronous: bool
    loops: tuple[str, ...]
    scope: str
    line: str


class Moved(NamedTuple):
    """The places of a kind together. count: runs in a step. bytes: of all runs. asynchronous: how
    many of count."""

    kind: str
    count: int
    bytes: int
    asynchronous: int


# Where parts are no whole tiles, a TPU adds up arrays that are zero outside the own part.
GATHER_BY_SUM = "all-gather by all-reduce"


def collectives(program: Program) -> list[Collective]:
    """Every place where devices send one another something.

    libtpu hides one behind a product by cutting it in a beginning, steps within the fusion of the
    product, and an end: all are the same channel, and one place.
    """
    found = {}
    for instruction, turns, loops, inside in program.walk():
        started = instruction.operation.endswith("-start")
        kind = instruction.operation.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        operands = program.operands(instruction)
        given = sum(operand.bytes for operand in operands)
        # What an all-gather-start gives is (operands, results), what a permute's, and two numbers.
        both = started and kind != "all-reduce"
        made = instruction.bytes - (given if both else 0)
        if kind == "all-reduce" and operands:
            zeros = all("dynamic-update-slice" in operand.name for operand in operands)
            kind = GATHER_BY_SUM if zeros else kind
        if inside.startswith("all-reduce-scatter"):  # of which every device keeps its part
            kind = "reduce-scatter"
        channel = re.search(r"channel_id=(\d+)", instruction.text)
        key = kind, channel[1] if channel else instruction.name, loops
        hidden = started or "async_collective" in inside
        hidden = hidden or (key in found and found[key].asynchronous)
        place = program.line(instruction)
        size = max(given, made)
        found[key] = Collective(kind, size, turns, hidden, loops, instruction.scope, place)
    return list(found.values())


def moved(places: list[Collective]) -> list[Moved]:
    """Places added up by kind."""
    rows = []
    for kind in dict.fromkeys(place.kind for place in places):
        mine = [place for place in places if place.kind == kind]
        rows.append(
            Moved(
                kind,
                sum(place.turns for place in mine),
                sum(place.turns * place.bytes for place in mine),
                sum(place.turns for place in mine if place.asynchronous),
            )
        )
    return sorted(rows, key=lambda row: -row.bytes)


def estimated_cycles(program: Program, taken: Taken = typically) -> float:
    """The compiler's estimate for all that it estimates: no kernels, no gathers, and nothing where
    there is a compiler without estimates. taken: how often each branch of a choice is."""
    total = 0
    for instruction, turns, _, fused in program.walk(taken):
        if not fused and (found := re.search(r'"estimated_cycles":"(\d+)"', instruction.text)):
            total += turns * int(found[1])
    return total


class Kernels(NamedTuple):
    """Attention kernels: runs of them in a step, and what they say of their products."""

    count: int
    flops: float


def kernels(program: Program) -> Kernels:
    """The kernels of a step that compute attention."""
    count, flops = 0, 0.0
    for instruction, turns, _, _ in program.walk():
        if KERNEL.search(instruction.text):
            count += turns
            cost = re.search(r'"?cost_estimate"?:?\s*\{[^}]*"?flops"?:\s*"?(\d+)', instruction.text)
            flops += turns * (int(cost[1]) if cost else 0)
    return Kernels(count, flops)


class Buffer(NamedTuple):
    """An array that the program makes. count: how many as large there are from one line."""

    bytes: int
    shape: str
    count: int
    line: str
    scope: str


FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "constant")


def buffers(program: Program, most: int = 5) -> list[Buffer]:
    """The largest arrays that instructions make, those of one shape and line together. What of
    them shares memory with what, the compiler does not say: they do not add up to its peak."""
    found = collections.Counter()
    scopes = {}
    for instruction, _, _, fused in program.walk():
        operation = instruction.operation
        if fused or operation in FREE or operation.endswith(("-done", "-start")):
            continue
        for array in _ARRAY.finditer(instruction.shape):
            key = array_bytes(array), _plain(array), program.line(instruction)
            found[key] += 1
            scopes.setdefault(key, instruction.scope)
    largest = sorted(found, key=lambda key: -key[0])[:most]
    return [Buffer(*key[:2], found[key], key[2], scopes[key]) for key in largest]


def shape_bytes(shape: str) -> int:
    """ "(f32[3,4]{1,0:T(8,128)}, u8[4])" -> the bytes that they take, padding to tiles included."""
    return sum(array_bytes(array) for array in _ARRAY.finditer(shape))


def array_bytes(array: re.Match) -> int:
    """Of one array of a type, as found by the pattern: as it lies in memory, padded to tiles."""
    kind, sides, layout = array.groups()
    digits = re.search(r"\d+", kind)
    bits = BITS.get(kind) or (int(digits[0]) if digits else 0)
    dims = [int(side) for side in sides.split(",") if side]
    order, _, rest = (layout or "").partition(":")
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if tile and order:
        minor = [int(dim) for dim in order.split(",")]
        sizes = [int(side) for side in tile[1].split(",")]
        for dim, side in zip(minor, reversed(sizes), strict=False):
            dims[dim] = -(-dims[dim] // side) * side
    return math.prod(dims) * bits // 8


def _instruction(name, rest):
    """rest: "<type> <operation>(<operands>), <attributes>"."""
    if rest.startswith("("):
        depths = itertools.accumulate((c == "(") - (c == ")") for c in rest)
        end = 1 + next(at for at, depth in enumerate(depths) if depth == 0)
        shape, after = rest[:end], rest[end:]
    else:
        shape, _, after = rest.partition(" ")
        after = " " + after
    operation = _OPERATION.match(after)
    return Instruction(name, shape, operation[1] if operation else "", rest)


def _branches(text):
    found = re.search(r"branch_computations=\{([^}]*)\}", text)
    if found:
        return found[1]
    pair = re.search(r"true_computation=(%[\w.-]+), false_computation=(%[\w.-]+)", text)
    return " ".join(reversed(pair.groups())) if pair else ""


def _plain(array):
    return f"{array[1]}[{array[2]}]"


def _short(path):
    """The path from the package on."""
    parts = path.split("/")
    for root in ("vitjax", "site-packages"):
        if root in parts:
            return "/".join(parts[parts.index(root) + (root != "vitjax") :])
    return parts[-1]


def _sources(text):
    """{stack frame: "file:line"} of the tables that stand before a program: of each stack the
    innermost line of vitjax, else the innermost of all."""

    def table(name, row):
        part = re.search(rf"^{name}\n(.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        return {found[0]: found[1:] for found in re.findall(row, part[1])} if part else {}

    files = table("FileNames", r'(\d+) "([^"]*)"')
    places = table("FileLocations", r"(\d+) \{file_name_id=(\d+) .*?line=(\d+)")
    frames = table("StackFrames", r"(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")

    def stack(frame):
        while frame in frames:
            place, parent = frames[frame]
            file, line = places[place]
            yield files[file][0], line
            frame = str(int(parent or 0) - 1)  # counted from 1, 1 is none

    def line(frame):
        found = list(stack(frame))
        ours = [place for place in found if "/vitjax/" in place[0]]
        file, number = (ours or found)[0]
        return f"{_short(file)}:{number}"

    return {int(frame): line(frame) for frame in frames}
