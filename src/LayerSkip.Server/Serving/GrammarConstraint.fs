namespace LayerSkip.Server

open LayerSkip

/// A grammar as a rule of decoding.
[<RequireQualifiedAccess>]
module internal GrammarConstraint =
    /// What may follow from a state on.
    let rec private ofState (state: GrammarState) : TokenConstraint = {
        new TokenConstraint with
            member _.Allows mask = state.Allows mask
            member _.Advance id = ofState (state.Advance id)
    }

    /// A text under a grammar, from its beginning, over a model's tokens; one of `stopIds` ends it.
    let create
        (grammar: Grammar)
        (stopIds: int[])
        (checkpoint: Checkpoint)
        : Result<TokenConstraint, LayerSkipError list> =
        Checkpoint.tokenizer checkpoint
        |> Result.bind (fun tokenizer -> Grammar.start grammar (TokenBytes.ofTokenizer tokenizer) stopIds)
        |> Result.map ofState
