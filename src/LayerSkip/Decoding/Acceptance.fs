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
    /// The text, or one before it.
    | Lookup
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
        | DraftSource.Adapter _ -> "adapter"
        | DraftSource.Layers -> "layers"
        | DraftSource.Unnamed -> "drafter"

    /// The layer that it leaves after, where it has one.
    let tryExit (source: DraftSource) : int option =
        match source with
        | DraftSource.Exit layer
        | DraftSource.Adapter layer -> Some layer
        | DraftSource.Lookup
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

/// Which drafts are kept, and what the whole model says after them.
[<RequireQualifiedAccess>]
module Acceptance =
    /// Greedy acceptance: the longest prefix that the whole model would have written, then its own next token.
    /// There is one verdict more than drafts, or as many where the last draft ends the text.
    let greedy (verdicts: int[]) (drafts: int[]) : struct (int * int voption) =
        let agreed = Seq.zip drafts verdicts |> Seq.takeWhile (fun (draft, own) -> draft = own) |> Seq.length
        struct (agreed, Array.tryItem agreed verdicts |> ValueOption.ofOption)

    let private residual (law: float[]) (draft: Draft) =
        match draft.Law with
        | DraftLaw.Drawn drawn -> Sampling.residual law drawn
        | DraftLaw.Certain ->
            Sampling.residual law (Array.init law.Length (fun id -> if id = draft.Token then 1.0 else 0.0))

    /// Speculative sampling (Leviathan et al. 2023, algorithm 1): draft i is kept when its uniform is strictly
    /// below p(x) / q(x); the law of the token after the kept ones is the residual at the first refusal, or p.
    /// `laws` are the whole model's at each row, `uniforms` at least as many as drafts.
    let sampled (uniforms: float[]) (laws: float[][]) (drafts: Draft[]) : struct (int * float[] voption) =
        let keeps i =
            let draft = drafts[i]
            uniforms[i] * Draft.probability draft < laws[i][draft.Token]

        let agreed = Seq.init drafts.Length keeps |> Seq.takeWhile id |> Seq.length

        let next =
            if agreed < drafts.Length then
                ValueSome(residual laws[agreed] drafts[agreed])
            else
                Array.tryItem agreed laws |> ValueOption.ofOption

        struct (agreed, next)
