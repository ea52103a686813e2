namespace LayerSkip

open LayerSkip.Kernels

/// How quantised matrices that stay in their file's blocks are multiplied. Others are in float32 either way.
[<RequireQualifiedAccess>]
type Compute =
    /// As bytes: a row of activations is rounded to 8 bits by blocks, by what it holds alone.
    | Auto
    /// In float32, over decoded blocks: it defines what the other must agree with.
    | Float

[<RequireQualifiedAccess>]
module Compute =
    /// Both.
    let all = [ Compute.Auto; Compute.Float ]

    /// As options and reports spell it: "auto", "float".
    let name (compute: Compute) =
        match compute with
        | Compute.Auto -> "auto"
        | Compute.Float -> "float"

    /// That of the CPU kernels.
    let internal form (compute: Compute) : ComputeForm =
        match compute with
        | Compute.Auto -> ComputeForm.Bytes
        | Compute.Float -> ComputeForm.Float
