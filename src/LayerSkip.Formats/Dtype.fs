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
    let name (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> "f64"
        | Dtype.F32 -> "f32"
        | Dtype.F16 -> "f16"
        | Dtype.BF16 -> "bf16"

    /// Of one value.
    let bytes (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> 8
        | Dtype.F32 -> 4
        | Dtype.F16
        | Dtype.BF16 -> 2
