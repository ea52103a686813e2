namespace LayerSkip

/// How a text is written: by which layers, and with whose drafts.
[<NoEquality; NoComparison>]
type Strategy = {
    /// As reports name it.
    Name: string
    /// The layers that choose the tokens; None: all of them.
    Depth: ExitLayer option
    Drafter: Drafter option
    Length: LengthPolicy
    /// Which ids drafts are chosen from that go through the head; None: all.
    Vocabulary: ContextVocabulary option
    /// Which drafts are kept.
    Acceptance: AcceptanceRule
} with

    /// Every layer, one token at a time.
    static member Autoregressive: Strategy = {
        Name = "autoregressive"
        Depth = None
        Drafter = None
        Length = LengthPolicy.Fixed 1
        Vocabulary = None
        Acceptance = AcceptanceRule.exact
    }

    /// Layers 1..E only: faster, another text.
    static member EarlyExit(exit: ExitLayer) : Strategy = {
        Strategy.Autoregressive with
            Name = "early-exit"
            Depth = Some exit
    }

    /// A drafter proposes, every layer verifies: the autoregressive text.
    static member Speculative(drafter: Drafter, length: LengthPolicy) : Strategy = {
        Strategy.Autoregressive with
            Name = drafter.Name
            Drafter = Some drafter
            Length = length
    }

    /// Layers 1..E draft up to `draftLength` tokens, the rest verify them: the autoregressive text.
    static member SelfSpeculative(exit: ExitLayer, draftLength: int) : Strategy =
        Strategy.Speculative(Drafter.earlyExit exit, LengthPolicy.Fixed draftLength)

    /// Exits draft as a policy says: the autoregressive text. `Drafter.ofPolicy` makes such drafters; theirs is the length too.
    static member Adaptive(drafter: Drafter) : Strategy =
        Strategy.Speculative(drafter, LengthPolicy.Adaptive(fun _ -> Strategy.LongestDraft))

    /// The most tokens of a draft whose length is a policy's to choose.
    static member LongestDraft: int = 32

    /// The layer to leave after, for drafts or for good.
    member this.Exit: ExitLayer option = this.Depth |> Option.orElse (this.Drafter |> Option.bind _.Exit)

    /// The same, whose drafts are chosen from a draft vocabulary; the text is the same.
    member this.Within(vocabulary: ContextVocabulary) : Strategy = { this with Vocabulary = Some vocabulary }

    /// The same, whose drafts are kept by another rule; the text is the same where that is lossless.
    member this.Accepting(rule: AcceptanceRule) : Strategy = { this with Acceptance = rule }

    /// Whether the text is the whole model's: every layer has a say in every token, and the rule of acceptance is lossless.
    member this.IsLossless: bool = this.Depth.IsNone && (this.Drafter.IsNone || this.Acceptance.IsLossless)

    /// The most drafts of a round, where that is fixed.
    member this.DraftLength: int option =
        match this.Drafter, this.Length with
        | Some _, LengthPolicy.Fixed length -> Some length
        | _ -> None
