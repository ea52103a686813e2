namespace LayerSkip

/// How the next round drafts.
[<Struct>]
type DraftPlan = {
    Exit: ExitLayer
    /// The most tokens to draft; 0: a plain step.
    Length: int
    /// A draft that its exit gives less probability than this is the round's last; it is verified like any other (Kangaroo,
    /// arXiv 2404.18911). 0: none is.
    StopBelow: float
}

[<RequireQualifiedAccess>]
module DraftPlan =
    /// So many drafts each time, at least 1, however sure the exit is: the paper's E and d.
    let fixed' (exit: ExitLayer) (length: int) : DraftPlan = { Exit = exit; Length = length; StopBelow = 0.0 }

/// What decides how each round drafts, from what the rounds before it showed. It is a value: a decoding starts with one and
/// goes on with what `Learn` returns, so the same value serves another text. Whatever it decides, the text is the whole
/// model's own.
type DraftPolicy =
    /// As reports name it.
    abstract Name: string
    abstract Next: DraftPlan
    /// The policy after one more round.
    abstract Learn: RoundSeen -> DraftPolicy

/// What a round takes, in milliseconds, by its exit layer and the tokens that it drafts; with 0 drafts a plain step.
type RoundCost = int -> int -> float

[<RequireQualifiedAccess>]
module DraftPolicy =
    /// The same plan each time.
    let fixed' (name: string) (plan: DraftPlan) : DraftPolicy = {
        new DraftPolicy with
            member _.Name = name
            member _.Next = plan
            member this.Learn _ = this
    }

    /// A policy as a fold: a state, what it plans, and what it becomes.
    let folded
        (name: string)
        (plan: 'State -> DraftPlan)
        (learn: RoundSeen -> 'State -> 'State)
        (start: 'State)
        : DraftPolicy =
        let rec after (state: 'State) : DraftPolicy =
            let next = lazy (plan state)

            {
                new DraftPolicy with
                    member _.Name = name
                    member _.Next = next.Value
                    member _.Learn seen = after (learn seen state)
            }

        after start
