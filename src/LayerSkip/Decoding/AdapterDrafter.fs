namespace LayerSkip

open System

/// What an adapter has read of one text: states of the positions 0 to `Known` - 1, which are the text's, and then of the tokens
/// `Ahead`, which were drafted.
[<NoEquality; NoComparison>]
type internal AdapterMemory = { Base: Slab; Cache: Cache; Known: int; Ahead: int[] }

/// Drafts of an exit whose states an adapter turns before the shared head.
[<RequireQualifiedAccess>]
module AdapterDrafter =
    /// A new cache, which goes with the base's.
    let private fresh (adapter: Adapter) (source: Cache) : AdapterMemory = {
        Base = source.Slab
        Cache = Cache.ofAdapter adapter source
        Known = 0
        Ahead = [||]
    }

    /// What of it is still the text's, all but the text's last token; the rest is forgotten.
    let private upTo (text: ReadOnlySpan<int>) (memory: AdapterMemory) : AdapterMemory =
        let kept = text.Slice(memory.Known).CommonPrefixLength(ReadOnlySpan memory.Ahead)
        let known = min (memory.Known + kept) (text.Length - 1)

        {
            memory with
                Cache = Cache.truncate (min known memory.Cache.Early.Length) memory.Cache
                Known = known
                Ahead = [||]
        }

    /// The adapter over all that the early layers have read and it has not; of what needs no keys and values, over the last alone.
    let private read (adapter: Adapter) (source: Cache) (own: Cache) : struct (Hidden * Cache) =
        let length = source.Early.Length

        if adapter.Weights.Config.Layers = 0 then
            Model.forwardAdapter adapter (length - 1) 1 source (Cache.truncate 0 own)
        else
            Model.forwardAdapter adapter own.Early.Length (length - own.Early.Length) source own

    /// The memory of a round's first draft: of what it was before, or a new one for a new text.
    let internal start
        (adapter: Adapter)
        (request: DraftRequest)
        (reading: Reading)
        (memory: AdapterMemory voption)
        =
        match memory with
        | ValueSome memory when obj.ReferenceEquals(memory.Base, reading.Cache.Slab) -> memory
        | _ -> fresh adapter reading.Cache
        |> upTo request.Text.Span

    /// The early layers, and then the adapter, read tokens, the latest of the text and the drafts made, and the head proposes the next.
    let internal step
        (adapter: Adapter)
        reads
        made
        (ids: int[])
        (request: DraftRequest)
        (reading: Reading)
        (own: Cache)
        =
        let struct (_, cache) = Model.forwardEarly request.Weights ids reading.Cache
        let struct (hidden, own) = read adapter cache own
        let struct (draft, key) = request.Pick reads made hidden reading.Key
        struct ({ draft with Source = DraftSource.Adapter adapter.Exit.Layers },
                { Cache = cache; Key = key },
                own)

    /// The memory after a round's last draft: the adapter has read the text's last token, if any, and `ahead` after it.
    let internal finish
        (request: DraftRequest)
        (ahead: int[])
        (own: Cache)
        (memory: AdapterMemory)
        : AdapterMemory = { memory with Cache = own; Known = request.Text.Length; Ahead = ahead }

    let rec private adapted (rule: StopRule) (adapter: Adapter) (memory: AdapterMemory voption) : Drafter = {
        new Drafter with
            member _.Name = "adapter"
            member _.Exit = Some adapter.Exit
            // The states that it reads stay where they are, whichever exits draft in between.
            member _.Watch = { Exits = [ adapter.Exit.Layers ]; PromptRows = 0; Past = true }

            member _.Draft(request, reading) =
                let memory = start adapter request reading memory

                let propose made token (struct (reading: Reading, own: Cache)) =
                    let struct (draft, reading, own) =
                        step adapter rule.Reads made [| token |] request reading own
                    struct (draft, struct (reading, own))

                let last = request.Text.Span[request.Text.Length - 1]
                let reading = { reading with Cache = Cache.splitAt adapter.Exit.Layers reading.Cache }

                let struct (drafts, struct (reading, own)) =
                    Speculation.untilEnough
                        rule.IsEnough
                        request.IsStop
                        propose
                        request.Ahead
                        last
                        (struct (reading, memory.Cache))

                let ahead = drafts[.. drafts.Length - 2] |> Array.map _.Token
                let memory = finish request ahead own memory
                struct (drafts, reading, adapted rule adapter (ValueSome memory))

            member this.Learn seen =
                let next = rule.Learn seen

                if obj.ReferenceEquals(next, rule) then
                    this
                else
                    adapted next adapter memory
    }

    /// Layers 1..E read a token, the adapter turns their state, and the head that all layers share proposes the next; the verification goes on
    /// from the exit's own states. Until a rule ends a draft.
    let until (rule: StopRule) (adapter: Adapter) : Drafter = adapted rule adapter ValueNone

    /// The same, as many tokens as are asked for.
    let create (adapter: Adapter) : Drafter = until StopRule.never adapter
