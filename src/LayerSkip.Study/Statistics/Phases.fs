namespace LayerSkip

/// What the time of a token is spent on, in milliseconds a token.
type Phases = {
    /// Drafting, heads included.
    DraftMs: float
    /// The whole model's passes, heads included.
    VerifyMs: float
    /// Of both: norm, head and the choice of tokens.
    HeadMs: float
    /// Beside all passes.
    OverheadMs: float
}

[<RequireQualifiedAccess>]
module Phases =
    /// Over so many tokens after the first of some texts, which took that; NaN where there are none.
    let ofTimings (tokens: int) (timings: Timings seq) : Phases =
        let timings = Array.ofSeq timings
        let perToken (ms: Timings -> float) = Array.sumBy ms timings / float tokens

        {
            DraftMs = perToken _.DraftMs
            VerifyMs = perToken _.VerifyMs
            HeadMs = perToken _.HeadMs
            OverheadMs = perToken _.OverheadMs
        }
