namespace LayerSkip

open LayerSkip.Kernels
open TorchSharp

/// How a cache holds keys and values. They are rounded once, when they are written, and what a position then holds depends
/// on the text up to it alone: every decoding of a text reads the same.
[<RequireQualifiedAccess>]
type KvFormat =
    /// float32: as the CPU kernels compute them.
    | F32
    /// float16, largest 65504: half the memory. Beyond that, numbers overflow as others do.
    | F16
    /// 8 bits a number, and a float32 scale for each head of a position: little more than a quarter. Of the CPU kernels alone.
    | Q8

[<RequireQualifiedAccess>]
module KvFormat =
    /// All of them, the widest first.
    let all = [ KvFormat.F32; KvFormat.F16; KvFormat.Q8 ]

    /// As options and messages spell it: "f32", "f16", "q8".
    let name (kv: KvFormat) =
        match kv with
        | KvFormat.F32 -> "f32"
        | KvFormat.F16 -> "f16"
        | KvFormat.Q8 -> "q8"

    /// The rows that the CPU kernels write and read; None is theirs: float32.
    let internal rows (kv: KvFormat option) : CacheFormat =
        match kv with
        | None
        | Some KvFormat.F32 -> CacheFormat.Float32
        | Some KvFormat.F16 -> CacheFormat.Float16
        | Some KvFormat.Q8 -> CacheFormat.Int8

    /// What a tensor holds of a head at a position: elements of a dtype, and how many; None is the activations' dtype.
    let internal elements
        (activations: torch.ScalarType)
        (headDim: int)
        (kv: KvFormat option)
        : struct (torch.ScalarType * int) =
        match kv with
        | None -> activations, headDim
        | Some KvFormat.F32 -> torch.ScalarType.Float32, headDim
        | Some KvFormat.F16 -> torch.ScalarType.Float16, headDim
        | Some KvFormat.Q8 -> torch.ScalarType.Byte, CacheRows.Bytes(CacheFormat.Int8, headDim)
