namespace LayerSkip

/// What passes of a model take, in milliseconds, by their number of rows, from 1 on: all layers, and norm, head and the choice of
/// tokens.
type PassParts = {
    LayersMs: float[]
    HeadMs: float[]
    /// The head of a draft: less where drafts are chosen from a few ids.
    DraftHeadMs: float
} with

    /// A token of plain decoding.
    member this.PlainMs = this.LayersMs[0] + this.HeadMs[0]

/// What drafts of a layer set are worth, from the time of passes and from how often the set says what the whole model says.
[<RequireQualifiedAccess>]
module LayerTimes =
    /// The most tokens that are drafted in a round.
    let mostDrafts = 8

    /// Times at a context of about `length` positions, or as many as leave room for a round.
    let measure (weights: Weights) (length: int) : PassParts =
        let rows = mostDrafts + 1
        let parts = PassTimes.parts weights (max 1 (min length (weights.Config.Context - rows))) 9 [ 1..rows ]
        let layersMs, headMs = parts |> Array.ofList |> Array.unzip
        { LayersMs = layersMs; HeadMs = headMs; DraftHeadMs = headMs[0] }

    /// Tokens a millisecond over those of plain decoding, of rounds of `drafts` tokens each of which is right with a probability of
    /// `agreement` (Leviathan et al. 2023, equation 1). A draft takes its share of the layers, and the head; the verification does not repeat the
    /// layers before the first gap.
    let ratio (parts: PassParts) (set: LayerSet) (agreement: float) (drafts: int) : float =
        let share layers = float layers / float set.Layers
        let shared = share set.Prefix.Layers
        let draft = share set.Count * parts.LayersMs[0] + parts.DraftHeadMs

        let verify =
            shared * parts.LayersMs[0]
            + (1.0 - shared) * parts.LayersMs[drafts]
            + parts.HeadMs[drafts]

        let tokens = Seq.init (drafts + 1) (pown agreement) |> Seq.sum
        tokens * parts.PlainMs / (float drafts * draft + verify)

    /// The number of drafts that brings the most, at least 1, and what it brings.
    let best (parts: PassParts) (set: LayerSet) (agreement: float) : struct (int * float) =
        Seq.init mostDrafts (fun index -> struct (index + 1, ratio parts set agreement (index + 1)))
        |> Seq.maxBy (fun (struct (_, ratio)) -> ratio)

    /// The agreement from which on a set pays; above 1 where not even the whole model's own drafts would.
    let breakEven (parts: PassParts) (set: LayerSet) : float =
        let pays agreement =
            let struct (_, ratio) = best parts set agreement
            ratio >= 1.0

        let rec between low high times =
            let middle = (low + high) / 2.0

            if times = 0 then high
            elif pays middle then between low middle (times - 1)
            else between middle high (times - 1)

        if pays 1.0 then between 0.0 1.0 30 else infinity
