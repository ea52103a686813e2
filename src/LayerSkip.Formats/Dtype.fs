namespace LayerSkip

/// The dtype of weights, in memory and in the files that we write. F16 is IEEE 754 binary16 (largest 65504), BF16 the
/// upper half of a binary32: its range, with 8 bits of precision.
[<RequireQualifiedAccess>]
type Dtype =
    | F64
    | F32
    | F16
    | BF16

/// Names and sizes of the four.
[<RequireQualifiedAccess>]
module Dtype =
    /// All of them, the widest first; of two that are equally wide the more precise.
    let all = [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ]

    /// As options and messages spell it: "f64", "f32", "f16", "bf16".
    let name (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> "f64"
        | Dtype.F32 -> "f32"
        | Dtype.F16 -> "f16"
        | Dtype.BF16 -> "bf16"

    /// PyTorch's name, as config.json has it, where "float" is written out: "float32", "bfloat16".
    let torchName (dtype: Dtype) = (name dtype).Replace("f", "float")

    /// The bytes of one value.
    let bytes (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> 8
        | Dtype.F32 -> 4
        | Dtype.F16
        | Dtype.BF16 -> 2
