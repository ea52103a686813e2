namespace LayerSkip

/// The layer to leave after: one that the model has, and not its last. Layers count from 1.
[<Struct>]
type ExitLayer =
    private
    | ExitLayer of int

    /// How many layers run before the exit: 1 to the model's layers - 1.
    member this.Layers =
        let (ExitLayer layers) = this
        layers

    /// Layer `exit` of a model of `layers`; ExitOutsideModel for any other.
    static member TryCreate(layers: int, exit: int) : Result<ExitLayer, LayerSkipError list> =
        if 0 < exit && exit < layers then
            Ok(ExitLayer exit)
        else
            Error [ LayerSkipError.ExitOutsideModel(exit, layers) ]

    /// Every exit of a model of `layers`, the first layer's first.
    static member All(layers: int) : ExitLayer list =
        List.init (max 0 (layers - 1)) (fun index -> ExitLayer(index + 1))

/// How rotary angles stretch beyond the context a model was trained with. The names are those of transformers
/// (modeling_rope_utils.py), the numbers unitless but for `original`, in positions.
[<RequireQualifiedAccess>]
type RopeScaling =
    | Default
    /// Stretched beyond max_position_embeddings, our limit, and so the same as Default; kept for who goes further.
    | Dynamic of factor: float * original: int option
    /// Positions divided by `factor` (Chen et al. 2023, arXiv 2306.15595).
    | Linear of factor: float
    /// Llama 3.1's: slow pairs divided by `factor`, fast ones left, those between mixed.
    | Llama3 of factor: float * lowFrequency: float * highFrequency: float * original: int
    | Yarn of YarnScaling
    /// A divisor for each pair of dimensions: how llama.cpp stores llama3's (`rope_freqs.weight`), and here any others.
    | Divided of divisors: float[]

/// YaRN (arXiv 2309.00071), with transformers' names and defaults.
and YarnScaling = {
    Factor: float
    Original: int
    BetaFast: float
    BetaSlow: float
    /// What cosine and sine are multiplied by.
    AttentionFactor: float
    /// Whether the correction range is rounded outwards to whole dimensions.
    Truncate: bool
}

/// The names of scalings and of their numbers.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module RopeScaling =
    /// transformers' `rope_type`; divisors have none.
    let tryType (scaling: RopeScaling) : string option =
        match scaling with
        | RopeScaling.Default -> Some "default"
        | RopeScaling.Dynamic _ -> Some "dynamic"
        | RopeScaling.Linear _ -> Some "linear"
        | RopeScaling.Llama3 _ -> Some "llama3"
        | RopeScaling.Yarn _ -> Some "yarn"
        | RopeScaling.Divided _ -> None

    /// transformers' name of the context that a model had before it was stretched, in positions.
    let internal originalName = "original_max_position_embeddings"

    /// A scaling's numbers by transformers' names, in the order in which they are written; divisors have none.
    let internal numbers (scaling: RopeScaling) : (string * float) list =
        let original (positions: int) = originalName, float positions

        match scaling with
        | RopeScaling.Default
        | RopeScaling.Divided _ -> []
        | RopeScaling.Dynamic(factor, positions) -> [
            "factor", factor
            yield! positions |> Option.toList |> List.map original
          ]
        | RopeScaling.Linear factor -> [ "factor", factor ]
        | RopeScaling.Llama3(factor, low, high, positions) -> [
            "factor", factor
            "low_freq_factor", low
            "high_freq_factor", high
            original positions
          ]
        | RopeScaling.Yarn yarn -> [
            "factor", yarn.Factor
            original yarn.Original
            "beta_fast", yarn.BetaFast
            "beta_slow", yarn.BetaSlow
            "attention_factor", yarn.AttentionFactor
          ]

    /// What YaRN multiplies cosine and sine by where a file does not say (section 3.4), times `scale` (DeepSeek's mscale).
    let internal yarnAttention (scale: float) (factor: float) : float =
        if factor <= 1.0 then
            1.0
        else
            0.1 * scale * log factor + 1.0

/// Decoders that one class of transformers runs; `Architecture` says what sets them apart.
[<RequireQualifiedAccess>]
type Family =
    | Llama
    | Mistral
    | Qwen2
    | Qwen3
    | Phi3

/// A complete decoder configuration: every default filled in, every number checked.
type LlamaConfig = {
    Family: Family
    /// Token ids: rows of the embedding, [vocabulary; hidden], with padding.
    Vocabulary: int
    Hidden: int
    /// The width of the MLP between gate, up and down.
    Intermediate: int
    Layers: int
    Heads: int
    /// Heads of keys and values; a divisor of `Heads` (grouped-query attention, arXiv 2305.13245).
    KvHeads: int
    /// Of one head, even: pairs of dimensions rotate together. heads * headDim need not be hidden.
    HeadDim: int
    /// The most positions that a cache may hold: max_position_embeddings.
    Context: int
    /// Added to the mean square before RMSNorm's root (arXiv 1910.07467).
    NormEps: float
    /// The base of the rotary angles: pair i turns by theta^(-2i / headDim) a position.
    RopeTheta: float
    RopeScaling: RopeScaling
    /// For each layer, how many of the latest positions it attends to; None is all.
    Windows: int option[]
    /// Biases of q, k and v; of the attention's output; of the MLP.
    QkvBias: bool
    OutputBias: bool
    MlpBias: bool
    /// A norm over each head's q and k (Qwen3).
    QkNorm: bool
    /// The head is the embedding.
    TiedHead: bool
    /// The token that begins a text, where config.json names one; the tokenizer says whether it is put there.
    Bos: int option
    /// Tokens that end a text; there may be none.
    StopIds: int[]
    /// The dtype that the file names ("float16"), where it names one.
    StoredDtype: string option
} with

    /// How many layers run up to an exit, or without one.
    member this.LayersTo(exit: ExitLayer option) : int =
        match exit with
        | Some exit -> exit.Layers
        | None -> this.Layers

    /// The head's weights over a layer's, norms and biases aside.
    member this.HeadInLayers: float =
        let attention = (2 * this.Heads + 2 * this.KvHeads) * this.HeadDim
        float this.Vocabulary / (float attention + 3.0 * float this.Intermediate)

    /// A Llama of these sizes, to be trained or tested: heads of hidden / heads dimensions, `context` positions, a head of its
    /// own, no biases and no ids that end a text. Nothing is checked.
    static member Llama(vocabulary, layers, hidden, intermediate, heads, kvHeads, context) : LlamaConfig = {
        Family = Family.Llama
        Vocabulary = vocabulary
        Hidden = hidden
        Intermediate = intermediate
        Layers = layers
        Heads = heads
        KvHeads = kvHeads
        HeadDim = hidden / heads
        Context = context
        NormEps = 1e-5
        RopeTheta = 10000.0
        RopeScaling = RopeScaling.Default
        Windows = Array.create layers None
        QkvBias = false
        OutputBias = false
        MlpBias = false
        QkNorm = false
        TiedHead = false
        Bos = None
        StopIds = [||]
        StoredDtype = None
    }
