namespace LayerSkip

/// Dtype of the weights in memory.
[<RequireQualifiedAccess>]
type Dtype =
    | F64
    | F32
    | F16
    | BF16

[<RequireQualifiedAccess>]
module Dtype =
    let all = [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ]

    /// As options and messages spell it: "f64", "f32", "f16", "bf16".
    let name (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> "f64"
        | Dtype.F32 -> "f32"
        | Dtype.F16 -> "f16"
        | Dtype.BF16 -> "bf16"

    /// PyTorch's name, as config.json has it: "float32".
    let torchName (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> "float64"
        | Dtype.F32 -> "float32"
        | Dtype.F16 -> "float16"
        | Dtype.BF16 -> "bfloat16"

    /// The bytes of one value.
    let bytes (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> 8
        | Dtype.F32 -> 4
        | Dtype.F16
        | Dtype.BF16 -> 2
