"""Reads the head of a GGUF file: metadata and what tensors there are. The tensors' data is not touched."""
import dataclasses
import math
import mmap
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

# id: (name, elements of a block, bytes of a block)
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
    30: ("BF16", 1, 2),
}
TYPE_IDS = {name: id_ for id_, (name, _, _) in TENSOR_TYPES.items()}


def tensor_bytes(type_name, dims):
    _, elements, size = TENSOR_TYPES[TYPE_IDS[type_name]]
    if dims[0] % elements:
        raise ValueError(f"rows of {dims[0]} elements are not whole {type_name} blocks of {elements}")
    return math.prod(dims) // elements * size


@dataclasses.dataclass
class TensorInfo:
    name: str
    dims: tuple  # the contiguous dimension first
    type: str

    @property
    def elements(self):
        return math.prod(self.dims)

    @property
    def bytes(self):
        return tensor_bytes(self.type, self.dims)


class _Cursor:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def scalar(self, code):
        size = struct.calcsize("<" + code)
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += size
        return value

    def text(self):
        length = self.scalar("Q")
        value = self.data[self.at:self.at + length]
        self.at += length
        return value.decode("utf-8", "replace")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, count = self.scalar("I"), self.scalar("Q")
            if item in SCALARS:
                code = f"<{count}{SCALARS[item]}"
                values = struct.unpack_from(code, self.data, self.at)
                self.at += struct.calcsize(code)
                return list(values)
            return [self.value(item) for _ in range(count)]
        return self.scalar(SCALARS[kind])


class GgufFile:
    """values: metadata by key. raw: the same as the bytes of the file, key included. tensors: in the order of the file."""

    def __init__(self, path):
        self.path = path
        self.values, self.raw, self.tensors = {}, {}, []
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise ValueError(f"{path}: not a GGUF file (begins with {bytes(data[:4])!r})")
            try:
                self._read(_Cursor(data))
            except (struct.error, KeyError) as error:
                raise ValueError(f"{path}: broken GGUF head: {error!r}") from None

    def _read(self, cursor):
        cursor.at = 4
        version, tensors, pairs = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
        if version not in (2, 3):
            raise ValueError(f"{self.path}: GGUF version {version}; 2 and 3 are read")
        for _ in range(pairs):
            start = cursor.at
            key = cursor.text()
            self.values[key] = cursor.value(cursor.scalar("I"))
            self.raw[key] = bytes(cursor.data[start:cursor.at])
        for _ in range(tensors):
            name, rank = cursor.text(), cursor.scalar("I")
            dims = tuple(cursor.scalar("Q") for _ in range(rank))
            kind = cursor.scalar("I")
            cursor.scalar("Q")  # offset
            self.tensors.append(TensorInfo(name, dims, TENSOR_TYPES[kind][0]))

    @property
    def vocabulary(self):
        return len(self.values["tokenizer.ggml.tokens"])

    def setting(self, key, default=None):
        """A key of the file's architecture."""
        return self.values.get(f"{self.values['general.architecture']}.{key}", default)

    def per_layer(self, key, default=None):
        """A setting as one value a layer."""
        layers = self.setting("block_count")
        value = self.setting(key, default)
        return value if isinstance(value, list) else [value] * layers
