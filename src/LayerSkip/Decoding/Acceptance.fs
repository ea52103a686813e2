namespace LayerSkip

/// The law that a draft was drawn from.
[<RequireQualifiedAccess>]
type DraftLaw =
    /// The token alone, with probability 1.
    | Certain
    /// Probabilities over the vocabulary.
    | Drawn of float[]

/// Who proposed a token.
[<RequireQualifiedAccess>]
type DraftSource =
    /// The model's first layers, up to this one.
    | Exit of layer: int
    /// The text itself, by what it said before.
    | Lookup
    /// A text of the past, looked up likewise.
    | Past
    /// The model's first layers and an adapter after them.
    | Adapter of layer: int
    /// Some of the model's layers.
    | Layers
    /// A drafter that says nothing of itself.
    | Unnamed

/// A drafted token. `Confidence` is the probability that its drafter gives it, where it has one, and `Entropy` that of the whole
/// law, in nats, where it was looked at.
[<Struct>]
type Draft = {
    Token: int
    Law: DraftLaw
    Confidence: float voption
    Entropy: float voption
    Source: DraftSource
}

[<RequireQualifiedAccess>]
module DraftSource =
    /// As reports name it: "exit", whichever the layer.
    let name (source: DraftSource) : string =
        match source with
        | DraftSource.Exit _ -> "exit"
        | DraftSource.Lookup -> "lookup"
        | DraftSource.Past -> "past"
        | DraftSource.Adapter _ -> "adapter"
        | DraftSource.Layers -> "layers"
        | DraftSource.Unnamed -> "drafter"

    /// The layer that it leaves after, where it has one.
    let tryExit (source: DraftSource) : int option =
        match source with
        | DraftSource.Exit layer
        | DraftSource.Adapter layer -> Some layer
        | DraftSource.Lookup
        | DraftSource.Past
        | DraftSource.Layers
        | DraftSource.Unnamed -> None

[<RequireQualifiedAccess>]
module Draft =
    /// A token without doubt or number.
    let certain (token: int) : Draft = {
        Token = token
        Law = DraftLaw.Certain
        Confidence = ValueNone
        Entropy = ValueNone
        Source = DraftSource.Unnamed
    }

    /// With the one who proposed it.
    let by (source: DraftSource) (draft: Draft) : Draft = { draft with Source = source }

    /// A token that was drawn from a law.
    let drawn (law: float[]) (token: int) : Draft = {
        certain token with
            Law = DraftLaw.Drawn law
            Confidence = ValueSome law[token]
    }

    /// The probability that its law gives it.
    let probability (draft: Draft) : float =
        match draft.Law with
        | DraftLaw.Certain -> 1.0
        | DraftLaw.Drawn law -> law[draft.Token]

/// Which drafts are kept, and what the whole model says after them. `keeps` decides of a draft by its place and by whether exact acceptance
/// keeps it; the first that it refuses ends the draft, and what exact acceptance would have written there stands in its place.
[<RequireQualifiedAccess>]
module Acceptance =
    let private agreed (keeps: int -> bool) (count: int) : int =
        let mutable kept = 0

        while kept < count && keeps kept do
            kept <- kept + 1

        kept

    /// Greedy acceptance: a draft is exact where the whole model would have written it; then comes that one's own next token.
    /// There is one verdict more than drafts, or as many where the last draft ends the text.
    let greedyBy (keeps: int -> bool -> bool) (verdicts: int[]) (drafts: int[]) : struct (int * int voption) =
        let agreed =
            min drafts.Length verdicts.Length
            |> agreed (fun place -> keeps place (drafts[place] = verdicts[place]))

        struct (agreed, Array.tryItem agreed verdicts |> ValueOption.ofOption)

    /// `greedyBy`, where what is exact is kept: the longest prefix that the whole model would have written.
    let greedy (verdicts: int[]) (drafts: int[]) : struct (int * int voption) =
        greedyBy (fun _ isExact -> isExact) verdicts drafts

    let private certainly (law: float[]) token =
        Array.init law.Length (fun id -> if id = token then 1.0 else 0.0)

    let private residual (law: float[]) (draft: Draft) =
        match draft.Law with
        | DraftLaw.Drawn drawn -> Sampling.residual law drawn
        | DraftLaw.Certain -> Sampling.residual law (certainly law draft.Token)

    /// Speculative sampling (Leviathan et al. 2023, algorithm 1): draft i is exact when its uniform is strictly
    /// below p(x) / q(x); the law of the token after the kept ones is the residual at the first refusal, or p. A draft that is exact and
    /// refused all the same is the token there, for it is what the algorithm draws: what `keeps` refuses does not change the law.
    /// `laws` are the whole model's at each row, `uniforms` at least as many as drafts.
    let sampledBy
        (keeps: int -> bool -> bool)
        (uniforms: float[])
        (laws: float[][])
        (drafts: Draft[])
        : struct (int * float[] voption) =
        let isExact place =
            let draft = drafts[place]
            uniforms[place] * Draft.probability draft < laws[place][draft.Token]

        let agreed = agreed (fun place -> keeps place (isExact place)) drafts.Length

        let next =
            if agreed = drafts.Length then
                Array.tryItem agreed laws |> ValueOption.ofOption
            elif isExact agreed then
                ValueSome(certainly laws[agreed] drafts[agreed].Token)
            else
                ValueSome(residual laws[agreed] drafts[agreed])

        struct (agreed, next)

    /// `sampledBy`, where what is exact is kept.
    let sampled (uniforms: float[]) (laws: float[][]) (drafts: Draft[]) : struct (int * float[] voption) =
        sampledBy (fun _ isExact -> isExact) uniforms laws drafts
