namespace LayerSkip

/// How fast texts were written one way: means over the texts, so that each weighs the same.
type DecodingRate = {
    /// "autoregressive", "self-speculative", "early-exit 2".
    Way: string
    /// New ones.
    Tokens: int
    /// To the first token.
    TtftMs: float
    /// After the first token; NaN where no text has a second one.
    MsPerToken: float
    TokensPerSecond: float
}

/// What the generated answers of a category came to, or those of all.
type EvalGroup = {
    /// The category; "all" of all.
    Name: string
    Items: int
    /// Those with something to compare an answer with.
    Scored: int
    /// By exit layer; the last layer is the whole model.
    Exits: (int * EvalMetric list) list
    Rates: DecodingRate list
    /// Of self-speculation, where it ran.
    Speculation: SpeculationMetrics option
    /// Of self-speculation over autoregressive decoding, where both ran; items are what is drawn, their turns and samples
    /// together.
    SpeedUp: SpeedUp option
    /// Greedy texts that were written both ways, and those of them that differ, which must not happen.
    Compared: int
    Different: int
}
