namespace LayerSkip

open System

/// How far the model has read a text, and the random numbers that its next draws take.
[<NoEquality; NoComparison>]
type Reading = { Cache: Cache; Key: Key }

/// What a drafter is asked.
[<NoEquality; NoComparison>]
type DraftRequest = {
    Weights: Weights
    /// Prompt and new tokens, the last of which the model has not read.
    Text: ReadOnlyMemory<int>
    /// The most tokens to propose, at least 1.
    Ahead: int
    IsStop: int -> bool
    /// The choice that hidden states make; none where their numbers are not finite.
    Choose: Hidden -> Verdicts voption
}

/// What proposes tokens for the whole model to judge. Whatever it proposes, the text is the whole model's own.
type Drafter =
    /// As reports name it.
    abstract Name: string
    /// The layers that it reads the text with: the verification continues from their exit states. None: it reads with none.
    abstract Exit: ExitLayer option

    /// Up to `Ahead` tokens after the text, perhaps none; how far the model has then read; and the drafter of the next
    /// round, so that it may remember. A drafter that reads nothing this time gives `reading` back as it got it: all but the
    /// last token of the text. One that reads ends before its last draft, as the verification reads that one.
    abstract Draft: request: DraftRequest * reading: Reading -> struct (Draft[] * Reading * Drafter)

[<RequireQualifiedAccess>]
module Drafter =
    /// `earlyExit`, whose greedy drafts `alter` may replace: it gets a draft's place in the text, and the draft.
    let internal alteredExit (alter: int -> int -> int) (exit: ExitLayer) : Drafter =
        let propose (request: DraftRequest) token (reading: Reading) =
            let struct (hidden, cache) = Model.forwardEarly request.Weights [| token |] reading.Cache
            let reading = { reading with Cache = cache }

            match request.Choose hidden with
            | ValueSome(Verdicts.Tokens own) ->
                struct (Draft.certain (alter cache.Early.Length own[0]), reading)
            | ValueSome(Verdicts.Laws laws) ->
                let struct (u, key) = Key.uniform reading.Key
                struct (Draft.drawn laws[0] (Sampling.pick laws[0] u), { reading with Key = key })
            // The whole model, which may be sound, judges it like any other.
            | ValueNone -> struct (Draft.certain 0, reading)

        {
            new Drafter with
                member _.Name = "self-speculative"
                member _.Exit = Some exit

                member this.Draft(request, reading) =
                    let last = request.Text.Span[request.Text.Length - 1]

                    let struct (drafts, reading) =
                        Speculation.oneByOne request.IsStop (propose request) request.Ahead last reading

                    struct (drafts, reading, this)
        }

    /// Layers 1..E propose token by token, through the head that all layers share (LayerSkip section 4.3).
    let earlyExit (exit: ExitLayer) : Drafter = alteredExit (fun _ token -> token) exit

    /// The text itself proposes, for no pass at all: what followed its last tokens, up to `maxNgram` of them, where they stood before
    /// (prompt lookup, Saxena 2023). Good where a text repeats its prompt or itself.
    let promptLookup (maxNgram: int) : Drafter =
        if maxNgram < 1 then
            invalidArg (nameof maxNgram) $"an ending has at least one token, not {maxNgram}"

        {
            new Drafter with
                member _.Name = "prompt-lookup"
                member _.Exit = None

                member this.Draft(request, reading) =
                    let drafts = PromptLookup.find maxNgram request.Ahead request.Text.Span
                    struct (Array.map Draft.certain drafts, reading, this)
        }
