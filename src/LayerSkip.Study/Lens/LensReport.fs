namespace LayerSkip

/// What a lens looks at.
type LensOptions = {
    /// The most probable tokens of each exit and position, 1 to the vocabulary.
    TopK: int
    /// The layers that the report shows, from 1; none: all. The last one always is.
    Layers: int list
    /// Whether the report holds the logits after every layer at the last position.
    Logits: bool
}

/// What one exit says along a text. Averages are over positions, in nats.
type LensExit = {
    /// Counted from 1.
    Layer: int
    /// [position]. A row's targets are the next token of the text, none at its last position.
    Rows: ComparedRow[]
    /// The share of positions where its choice is the last layer's: of what it would draft, what would be accepted.
    Agreement: float
    /// Of KL(last layer || exit).
    MeanKl: float
    MeanEntropy: float
    /// -ln p of the text's next tokens; None of a single token.
    CrossEntropy: float option
}

/// What every layer of a model would say at every position of a text: the logit lens (nostalgebraist 2020; LayerSkip, figure 2),
/// which in a LayerSkip model is the drafter.
type LensReport = {
    Model: string
    Dtype: string
    /// How quantised matrices were multiplied: "auto", "float"; None where there are none.
    Compute: string option
    /// What the cache held: "f32", "f16", "q8".
    Kv: string
    /// How the text was read: "auto", "exact".
    Prefill: string
    /// Of the model.
    Layers: int
    Vocabulary: int
    TopK: int
    /// The text's ids, [position].
    Tokens: int[]
    /// The text of each id that the report names; empty where the model has no tokenizer.
    Texts: Map<int, string>
    /// The layers that were asked for, in order of depth.
    Exits: LensExit[]
    /// [position]: the first layer from which on every layer's choice is the last one's; L where the last layer changes it. It is
    /// of all layers, also where the report shows some.
    Settled: int[]
    /// [layer][vocabulary], of all layers at the last position; None where they were not asked for.
    ExitLogits: float[][] option
} with

    /// An id's text, in digits where the model has no tokenizer.
    member this.Text(id: int) : string = this.Texts.TryFind id |> Option.defaultWith (fun () -> string id)
