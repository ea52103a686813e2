namespace LayerSkip

open System.Collections.Generic

/// Grammars as what may follow a prompt.
[<RequireQualifiedAccess>]
module GrammarConstraint =
    /// What a text under a grammar allows.
    let rec ofState (state: GrammarState) : TokenConstraint = {
        new TokenConstraint with
            member _.Allows mask = state.Allows mask
            member _.Advance id = ofState (state.Advance id)
    }

    /// A text under a grammar, from its beginning, over a model's tokens; one of `stopIds` ends it. It learns which tokens a
    /// grammar allows where: keep it for the next text under the same grammar, from whatever thread. Errors: no stop id, a
    /// model without a tokenizer, or one whose vocabulary cannot spell ASCII.
    let create
        (grammar: Grammar)
        (stopIds: int[])
        (checkpoint: Checkpoint)
        : Result<TokenConstraint, LayerSkipError list> =
        Checkpoint.tokenizer checkpoint
        |> Result.bind (fun tokenizer -> Grammar.start grammar (TokenBytes.ofTokenizer tokenizer) stopIds)
        |> Result.map ofState

/// The constraints that were asked for last, by the text that names their grammar and the ids that end a text: programs have few schemas.
/// What one has learned of a vocabulary stays with it. Threads may share them.
[<Sealed>]
type GrammarConstraints(checkpoint: Checkpoint, capacity: int) =
    // The latest last.
    let known = List<struct (string * string * TokenConstraint)>()

    /// The constraint of a grammar of this name, made where it is not among the last `capacity`. Errors: those of `make`, and of
    /// `GrammarConstraint.create`.
    member _.Get
        (name: string, stopIds: int[], make: unit -> Result<Grammar, LayerSkipError list>)
        : Result<TokenConstraint, LayerSkipError list> =
        let ids = System.String.Join(',', stopIds)

        let find () =
            match known.FindIndex(fun (struct (other, ends, _)) -> other = name && ends = ids) with
            | -1 -> None
            | at ->
                let struct (_, _, found) as entry = known[at]
                known.RemoveAt at
                known.Add entry
                Some found

        let keep made =
            match find () with
            | Some found -> found
            | None ->
                known.Add(struct (name, ids, made))
                if known.Count > capacity then
                    known.RemoveAt 0
                made

        match lock known find with
        | Some found -> Ok found
        | None ->
            make ()
            |> Result.bind (fun grammar -> GrammarConstraint.create grammar stopIds checkpoint)
            |> Result.map (fun made -> lock known (fun () -> keep made))
