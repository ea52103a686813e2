namespace LayerSkip

/// A position of the text at which every layer has spoken and the whole model has chosen.
type JudgedRow = {
    /// The whole model's token.
    Token: int
    /// After each layer, [layers]: the token that the shared head prefers there, and its probability; -1 and 0 after one that was
    /// not looked at.
    Choices: int[]
    Confidences: float[]
} with

    /// Whether layer `exit`, counted from 1, would have drafted the whole model's token.
    member this.Matches(exit: int) : bool = this.Choices[exit - 1] = this.Token

/// What a round showed once the whole model had judged it.
type RoundSeen = {
    /// Whether it was the pass over the prompt, which drafts nothing and brings the first token.
    IsPrompt: bool
    Round: Round
    /// As many as the round drafted.
    Drafts: Draft[]
    /// Where the whole model had the last word: after the token that the round began with, and after each accepted draft. Every
    /// position of the text is in one round. Looking costs a head for each layer that is watched, and has to be done at once.
    Rows: Lazy<JudgedRow[]>
    /// The time of the round, measured or predicted; of a prompt that is read in pieces, that of the last one.
    Ms: float
    /// Of that, in drafting.
    DraftMs: float
} with

    /// The drafts that the whole model looked at, each with whether it was kept: those after the first refused one were made in a
    /// context that is not the text.
    member this.Judged: (Draft * bool)[] =
        this.Drafts
        |> Array.truncate (this.Round.Accepted + 1)
        |> Array.mapi (fun place draft -> draft, place < this.Round.Accepted)

/// What a drafter wants to look at beside its own drafts.
type Watch = {
    /// Layers, counted from 1, whose states stay, so that `RoundSeen.Rows` knows what they would have drafted.
    Exits: int list
    /// Rows of the prompt's end, at most, that count as seen once the prompt was read: evidence before the first round.
    PromptRows: int
    /// Whether it also looks at states of what a text before its own has read: a cache that has not kept them is then no use to it.
    Past: bool
}

[<RequireQualifiedAccess>]
module Watch =
    /// Nothing.
    let nothing: Watch = { Exits = []; PromptRows = 0; Past = false }
