namespace LayerSkip

/// How the products of a prompt are computed: of what is read into an empty cache, or after what it holds of the prompt already. All
/// decodings of a prompt read it alike, so that speculation writes plain decoding's text either way; what follows is always read exactly.
[<RequireQualifiedAccess>]
type Prefill =
    /// On the processor's matrix unit (AVX512-BF16, AMX) where many rows are faster there: inputs, weights of fewer than 32 bits, and
    /// queries, keys, values and the weights of their mixture are rounded to bfloat16 for it, sums and exponentials are float32.
    | Auto
    /// As every other row, to the bit what one row after the other comes to.
    | Exact

[<RequireQualifiedAccess>]
module Prefill =
    /// Both.
    let all = [ Prefill.Auto; Prefill.Exact ]

    /// As options and messages spell it: "auto", "exact".
    let name (prefill: Prefill) =
        match prefill with
        | Prefill.Auto -> "auto"
        | Prefill.Exact -> "exact"
