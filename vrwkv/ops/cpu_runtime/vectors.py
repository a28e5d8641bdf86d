"""Explicit SIMD for numba: vectors of 16 numbers as values in compiled functions.

Loops over tokens can then keep the state of 16 channels in registers, which no automatic vectoriser finds. LLVM splits
a vector into whatever registers the processor has, so the same kernels run on any of them.

    x = load(address, FLOAT32)              16 numbers from memory, as float32
    store(address, FLOAT32, a * x + b)      operators work element by element; scalars are spread over all lanes

Compiled functions address memory by plain integers: tensors are passed as their `data_ptr()`.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
FLOAT32, BFLOAT16 = 0, 1  # how numbers are stored in memory; computing is in float32

_FAST = ("contract", "nsz", "arcp")  # products may fuse with sums; nothing that would drop infinities or reorder sums
_WORD = ir.IntType(64)


class VectorType(types.Type):
    """LANES float32 or float64 numbers in registers."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"vector({LANES} x {element})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, _llvm_type(fe_type))


vector32 = VectorType(types.float32)
vector64 = VectorType(types.float64)


def _llvm_type(vector: VectorType) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if vector.element == types.float32 else ir.DoubleType(), LANES)


def _spread(builder: Any, scalar: Any) -> Any:
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)


def _pointer(builder: Any, address: Any, pointee: Any) -> Any:
    return builder.inttoptr(address, pointee.as_pointer())


def _register_operator(function: Callable[..., Any], instruction: str) -> None:
    """Make `function`, one of Python's binary operators, work on vectors and on vectors with scalars."""

    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
            vectors = [arg for arg in args if isinstance(arg, VectorType)]
            if len(args) != 2 or not vectors or kws:
                return None
            operands = [arg if isinstance(arg, VectorType) else vectors[0].element for arg in args]
            if any(isinstance(operand, VectorType) and operand != vectors[0] for operand in operands):
                return None
            return signature(vectors[0], *operands)

    infer_global(function)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (
            value if isinstance(kind, VectorType) else _spread(builder, value)
            for kind, value in zip(sig.args, args, strict=True)
        )
        return getattr(builder, instruction)(a, b, flags=_FAST)

    for kinds in ((VectorType, VectorType), (VectorType, types.Float), (types.Float, VectorType)):
        lower_builtin(function, *kinds)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_function, _instruction)


@intrinsic
def zeros32(typingctx):  # type: ignore[no-untyped-def]
    """A float32 vector of zeros."""
    return vector32(), lambda context, builder, sig, args: ir.Constant(_llvm_type(vector32), [0.0] * LANES)


@intrinsic
def spread(typingctx, scalar):  # type: ignore[no-untyped-def]
    """A scalar in every lane."""
    return VectorType(scalar)(scalar), lambda context, builder, sig, args: _spread(builder, args[0])


@intrinsic
def word_at(typingctx, address):  # type: ignore[no-untyped-def]
    """The 64-bit integer at an address."""
    return types.int64(types.int64), lambda context, builder, sig, args: builder.load(_pointer(builder, args[0], _WORD))


@intrinsic
def float_at(typingctx, address):  # type: ignore[no-untyped-def]
    """The float32 number at an address."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0], ir.FloatType()))

    return types.float32(types.int64), generate


def _loader(stored: Any, widen: Callable[[Any, Any], Any], result: VectorType) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = ir.VectorType(stored, LANES)
        return widen(builder, builder.load(_pointer(builder, args[0], memory), align=stored_bytes(stored)))

    return result(types.int64), generate


def _storer(stored: Any, narrow: Callable[[Any, Any], Any], value: VectorType) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = ir.VectorType(stored, LANES)
        builder.store(narrow(builder, args[1]), _pointer(builder, args[0], memory), align=stored_bytes(stored))
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


def stored_bytes(stored: Any) -> int:
    """Bytes of one number of an LLVM type, which is also all the alignment that tensors guarantee."""
    return {ir.FloatType(): 4, ir.DoubleType(): 8, ir.IntType(16): 2}[stored]


def _as_is(builder: Any, value: Any) -> Any:
    return value


def _integers(value: int, bits: int = 32) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(bits), LANES), [value] * LANES)


def _widen_bfloat16(builder: Any, value: Any) -> Any:
    wide = builder.zext(value, ir.VectorType(ir.IntType(32), LANES))
    return builder.bitcast(builder.shl(wide, _integers(16)), _llvm_type(vector32))


def _narrow_bfloat16(builder: Any, value: Any) -> Any:
    """Round to the nearest, ties to even, as torch does; NaN stays NaN."""
    bits = builder.bitcast(value, ir.VectorType(ir.IntType(32), LANES))
    odd = builder.and_(builder.lshr(bits, _integers(16)), _integers(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _integers(0x7FFF))), _integers(16))
    missing = builder.fcmp_unordered("uno", value, value)
    chosen = builder.select(missing, _integers(0x7FC0), rounded)
    return builder.trunc(chosen, ir.VectorType(ir.IntType(16), LANES))


@intrinsic
def load32(typingctx, address):  # type: ignore[no-untyped-def]
    """LANES float32 numbers."""
    return _loader(ir.FloatType(), _as_is, vector32)


@intrinsic
def load64(typingctx, address):  # type: ignore[no-untyped-def]
    """LANES float64 numbers."""
    return _loader(ir.DoubleType(), _as_is, vector64)


@intrinsic
def load_bfloat16(typingctx, address):  # type: ignore[no-untyped-def]
    """LANES bfloat16 numbers, as float32."""
    return _loader(ir.IntType(16), _widen_bfloat16, vector32)


@intrinsic
def store32(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Write a float32 vector."""
    return _storer(ir.FloatType(), _as_is, vector32)


@intrinsic
def store64(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Write a float64 vector."""
    return _storer(ir.DoubleType(), _as_is, vector64)


@intrinsic
def store_bfloat16(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Write a float32 vector as bfloat16."""
    return _storer(ir.IntType(16), _narrow_bfloat16, vector32)


@intrinsic
def widen(typingctx, value):  # type: ignore[no-untyped-def]
    """float32 to float64."""
    return vector64(vector32), lambda context, builder, sig, args: builder.fpext(args[0], _llvm_type(vector64))


@intrinsic
def narrow(typingctx, value):  # type: ignore[no-untyped-def]
    """float64 to float32."""
    return vector32(vector64), lambda context, builder, sig, args: builder.fptrunc(args[0], _llvm_type(vector32))


def _call_llvm(name: str, arity: int) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _llvm_type(sig.return_type)
        element = "f32" if sig.return_type == vector32 else "f64"
        kind = ir.FunctionType(vector, [vector] * arity)
        function = builder.module.declare_intrinsic(f"llvm.{name}.v{LANES}{element}", fnty=kind)
        return builder.call(function, args)

    return generate


def _vector_signature(*args: types.Type) -> Any:
    """Signature of a function of vectors and scalars, and a function that spreads the scalars."""
    vector = next(arg for arg in args if isinstance(arg, VectorType))
    sig = vector(*(arg if isinstance(arg, VectorType) else vector.element for arg in args))

    def vectors(builder: Any, values: Any) -> list[Any]:
        kinds = zip(sig.args, values, strict=True)
        return [value if isinstance(kind, VectorType) else _spread(builder, value) for kind, value in kinds]

    return sig, vectors


@intrinsic
def maximum(typingctx, a, b):  # type: ignore[no-untyped-def]
    """The larger of two, lane by lane; `a` where either is NaN."""
    sig, vectors = _vector_signature(a, b)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left, right = vectors(builder, args)
        return builder.select(builder.fcmp_unordered(">", left, right), left, right)

    return sig, generate


@intrinsic
def fused(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a · b + c, rounded once where the processor can."""
    sig, vectors = _vector_signature(a, b, c)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call_llvm("fmuladd", 3)(context, builder, sig, vectors(builder, args))

    return sig, generate


@intrinsic
def square_root(typingctx, value):  # type: ignore[no-untyped-def]
    """Lane by lane."""
    return value(value), _call_llvm("sqrt", 1)


@intrinsic
def times_power_of_two(typingctx, value, rounded):  # type: ignore[no-untyped-def]
    """value · 2^n, where `rounded` is n + 1.5 · 2^m for the m digits of the mantissa, so that its last bits are n."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits, digits = (32, 23) if sig.return_type == vector32 else (64, 52)
        whole, power = (builder.bitcast(arg, ir.VectorType(ir.IntType(bits), LANES)) for arg in args)
        raised = builder.add(whole, builder.shl(power, _integers(digits, bits)))
        return builder.bitcast(raised, _llvm_type(sig.return_type))

    return value(value, value), generate


@intrinsic
def sum_of_lanes(typingctx, value):  # type: ignore[no-untyped-def]
    """The sum of all lanes, added pairwise."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, width = args[0], LANES
        while width > 1:
            width //= 2
            low = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width)))
            high = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width, 2 * width)))
            undefined = ir.Constant(total.type, ir.Undefined)
            total = builder.fadd(
                builder.shuffle_vector(total, undefined, low), builder.shuffle_vector(total, undefined, high)
            )
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return value.element(value), generate


@intrinsic(prefer_literal=True)
def stack_memory(typingctx, size):  # type: ignore[no-untyped-def]
    """Address of `size` bytes (a literal) that live until the function returns."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.IntType(8), size=ir.Constant(ir.IntType(32), size.literal_value))
        memory.align = 64
        return builder.ptrtoint(memory, _WORD)

    return types.int64(size), generate


@intrinsic
def prefetch(typingctx, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address, which need not be valid, without waiting for it."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        reading, second_level, data = 0, 2, 1
        flags = [ir.Constant(flag, value) for value in (reading, second_level, data)]
        builder.call(function, [_pointer(builder, args[0], ir.IntType(8)), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def choose(typingctx, condition, a, b):  # type: ignore[no-untyped-def]
    """`a` where `condition` is above zero, else `b`, lane by lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zeros = ir.Constant(args[0].type, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", args[0], zeros), args[1], args[2])

    return a(condition, a, b), generate


@intrinsic
def store_float(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Write one float32 number."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0], ir.FloatType()))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate
