namespace LayerSkip.Server

open System
open System.Collections.Generic
open LayerSkip

/// A grammar that a request's text is to follow.
[<NoEquality; NoComparison>]
type internal AskedGrammar = {
    /// No other grammar has it.
    Name: string
    /// The request's field at fault, where it cannot be made.
    Field: string
    Make: unit -> Result<Grammar, LayerSkipError list>
}

/// The model that a server has, under the name that its clients know; what is made for requests and serves later ones stays with it. Any
/// thread may ask.
[<Sealed>]
type internal ServedModel(name: string, checkpoint: Checkpoint) =
    let adapters = Dictionary<int option, Result<Adapter, LayerSkipError list>>()
    // A schema is a client's to choose: no more than the last ones stay.
    let grammars = GrammarConstraints(checkpoint, 64)
    let created = DateTimeOffset.UtcNow
    let chatStopIds = lazy (Chat.stopIds checkpoint)

    member _.Name = name
    member _.Checkpoint = checkpoint
    member _.Config = checkpoint.Config
    member _.Created = created

    /// The ids that end an answer in a conversation.
    member _.ChatStopIds: int[] = chatStopIds.Value

    /// The adapter behind an exit layer, or the first that the model has; loaded once, and freed with this.
    member _.Adapter(exit: int option) : Result<Adapter, LayerSkipError list> =
        lock adapters (fun () ->
            match adapters.TryGetValue exit with
            | true, found -> found
            | _ ->
                let found =
                    if checkpoint.Adapters.IsEmpty then
                        Check.unsupported
                            "drafter adapter for a model without an adapter"
                            "leave drafter out"
                    else
                        Adapters.load exit checkpoint

                // What an option may put right is no other request's affair.
                if Result.isOk found then
                    adapters[exit] <- found

                found)

    /// What may follow in a text under a grammar, ended by one of these ids. The name tells the grammar from others; it is made once, and
    /// learns.
    member _.Constrain(asked: AskedGrammar, stopIds: int[]) : Result<TokenConstraint, LayerSkipError list> =
        grammars.Get(asked.Name, stopIds, asked.Make)

    /// What texts are read and written with.
    member _.Tokenizer: Result<Tokenizer, Refusal> =
        match checkpoint.Tokenizer with
        | Some tokenizer -> Ok tokenizer
        | None -> Error(Refusal.ofErrors [ LayerSkipError.NoTokenizer "" ])

    /// A prompt's ids. An empty one is the tokenizer's beginning-of-text token.
    member this.Encode(addsSpecial: bool, prompt: PromptForm) : Result<int[], Refusal> =
        match prompt with
        | PromptForm.Ids ids -> Ok(Checkpoint.orBos checkpoint ids)
        | PromptForm.Text text ->
            this.Tokenizer
            |> Result.map (fun tokenizer ->
                Tokenizer.encodeWith (addsSpecial && Tokenizer.addsBos tokenizer) true tokenizer text
                |> Checkpoint.orBos checkpoint)

    /// How many of a prompt's first ids its text does not show, since the tokenizer or we put them there.
    member this.Unseen(addsSpecial: bool, prompt: PromptForm) : int =
        match prompt, checkpoint.Tokenizer with
        | PromptForm.Ids [||], _
        | PromptForm.Text "", _ -> 1
        | PromptForm.Text _, Some tokenizer when addsSpecial && Tokenizer.addsBos tokenizer -> 1
        | _ -> 0

    /// A refusal of a request for another model.
    member _.Check(asked: string option) : Result<unit, Refusal> =
        match asked with
        | Some other when other <> name -> Error(Refusal.noModel other name)
        | _ -> Ok()

    interface IDisposable with
        member _.Dispose() =
            for found in adapters.Values do
                found |> Result.iter (fun adapter -> (adapter :> IDisposable).Dispose())

            adapters.Clear()
