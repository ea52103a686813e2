module LayerSkip.Tests.EngineTests

open System
open System.Threading
open System.Threading.Tasks
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.DraftingSupport
open LayerSkip.Tests.ServingSupport

Backend.ensure ()

let private model = { Config = { Tiny.config 24 4 4 2 true with Context = 512 }; Seed = 5L }

let private none = EngineOptions.defaults

let private withEngine options (body: Engine -> Checkpoint -> 'T) : 'T =
    withWeights Dtype.F32 model (fun weights ->
        let checkpoint = over 2 3 weights
        use engine = new Engine(checkpoint, options)
        body engine checkpoint)

let private submit (engine: Engine) request : EngineTicket =
    match engine.Submit request with
    | Ok ticket -> ticket
    | Error refusal -> failtest $"%A{refusal}"

/// Every event of a ticket, read on this thread, in order.
let private drained (ticket: EngineTicket) : GenerationEvent list =
    let rec read made =
        match ticket.Events.TryRead() with
        | true, event -> read (event :: made)
        | _ when ticket.Events.Completion.IsCompleted && ticket.Events.Count = 0 -> List.rev made
        | _ ->
            Thread.Sleep 1
            read made

    read []

let private tokensOf (events: GenerationEvent list) = [|
    for event in events do
        match event with
        | GenerationEvent.End(_, completion) -> yield! completion.TokenIds
        | _ -> ()
|]

let private offline checkpoint options prompt = (fresh checkpoint options prompt).TokenIds

let private strategies (checkpoint: Checkpoint) = [|
    Strategy.Autoregressive
    Strategy.EarlyExit(exit checkpoint.Config.Layers 2)
    Strategy.SelfSpeculative(exit checkpoint.Config.Layers 2, 3)
    for options in
        [
            DraftingOptions.none
            { DraftingOptions.none with Policy = Some DraftPolicyKind.Del }
            { DraftingOptions.none with Drafter = Some DrafterKind.Lookup }
        ] do
        Drafting.decide Sampling.Greedy checkpoint options
        |> Check.getOrRaise
        |> Drafting.strategyWith (fun () -> cheap checkpoint.Config.Layers) checkpoint
|]

/// Prompts of which some begin alike.
let private prompt (random: Random) vocabulary (shared: int[]) = [|
    if random.Next 2 = 0 then
        yield! shared
    for _ in 0 .. random.Next 12 do
        random.Next vocabulary
|]

/// `count` requests by every strategy at once, some of which are cancelled: the others' texts are those that a decoding alone writes.
let private concurrently (engine: Engine) (checkpoint: Checkpoint) count limit isCancelled =
    let random = Random 7
    let strategies = strategies checkpoint
    let vocabulary = checkpoint.Config.Vocabulary
    let shared = Array.init 30 (fun i -> (5 * i + 1) % vocabulary)

    let asked = [|
        for index in 0 .. count - 1 do
            let options = options strategies[index % strategies.Length] (1 + random.Next limit)
            let prompt = prompt random vocabulary shared
            let source = new CancellationTokenSource()
            let request = { EngineRequest.create options prompt with Cancelled = source.Token }
            struct (options, prompt, submit engine request, source)
    |]

    let mutable written = 0

    for index, struct (_, _, ticket, source) in Array.indexed asked do
        if isCancelled index then
            // Some before their turn, some in the middle.
            if index % 2 = 0 then
                ticket.Events.WaitToReadAsync().AsTask().Wait 50 |> ignore

            source.Cancel()

    for index, struct (options, prompt, ticket, source) in Array.indexed asked do
        let events = drained ticket

        if not (isCancelled index) then
            Expect.equal (tokensOf events) (offline checkpoint options prompt) $"text {index}"
            Expect.equal (ticket.Completed.Result.TokenIds) (tokensOf events) "the same"
            written <- written + 1
        elif not ticket.Completed.IsCompletedSuccessfully then
            Expect.isTrue ticket.Completed.IsCanceled "cancelled"
            Expect.equal (tokensOf events) [||] "no end"

        source.Dispose()

    written

/// Holds the engine's thread until it is disposed.
let private occupy (engine: Engine) =
    let go = new ManualResetEventSlim()
    let began = new ManualResetEventSlim()

    match
        engine.Run(
            (fun _ ->
                began.Set()
                go.Wait()),
            CancellationToken.None
        )
    with
    | Ok task ->
        began.Wait()

        {
            new IDisposable with
                member _.Dispose() =
                    go.Set()
                    task.Wait()
        }
    | Error refusal -> failtest $"%A{refusal}"

[<Tests>]
let tests =
    testSequenced
    <| testList "engine" [
        testCase "32 requests at once: each text is the one that is written alone" (fun () ->
            withEngine none (fun engine checkpoint ->
                Expect.equal (concurrently engine checkpoint 32 40 (fun _ -> false)) 32 "all"
                let counts = engine.Counts
                Expect.equal (counts.Running, counts.Waiting) (0, 0) "idle"
                Expect.equal (counts.Stopped + counts.Exhausted) 32L "finished"
                Expect.equal counts.Prompts 32L "prompts"
                Expect.isGreaterThan counts.PrefixHits 0L "shared beginnings"
                Expect.isGreaterThan counts.ReusedTokens 0L "not read again"
                Expect.equal (Array.sum counts.AcceptedPerPosition) counts.AcceptedTokens "by position"
                Expect.isGreaterThan counts.AcceptedTokens 0L "drafts were kept"
                Expect.isLessThanOrEqual counts.AcceptedTokens counts.DraftTokens "of those made"
                Expect.equal counts.RunningBytes 0L "given back"))

        testCase "the same with few places, and a third of the requests cancelled" (fun () ->
            withEngine { none with Slots = 3 } (fun engine checkpoint ->
                let isCancelled index = index % 3 = 0
                Expect.equal (concurrently engine checkpoint 36 40 isCancelled) 24 "the others"
                let counts = engine.Counts
                Expect.equal (counts.Stopped + counts.Exhausted + counts.Cancelled) 36L "every end"
                Expect.equal (counts.Running, counts.Waiting) (0, 0) "idle"))

        sharedTest "stories260K: 32 streams with text" [ "stories260K" ] (fun folder ->
            use checkpoint = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise
            use engine = new Engine(checkpoint, none)
            Expect.equal (concurrently engine checkpoint 32 40 (fun _ -> false)) 32 "all"
            let options = { options Strategy.Autoregressive 20 with StopIds = checkpoint.StopIds }
            let prompt = Tokenizer.encode checkpoint.Tokenizer.Value "Once upon a time"
            let events = EngineRequest.create options prompt |> submit engine |> drained

            let text =
                events
                |> List.map (function
                    | GenerationEvent.End(rest, _) -> rest
                    | GenerationEvent.Token token -> token.Text
                    | GenerationEvent.Prompt _
                    | GenerationEvent.Round _ -> "")
                |> String.concat ""

            let alone = Generation.complete checkpoint.Weights checkpoint.Tokenizer options prompt
            Expect.equal (Some text) (Check.getOrRaise alone).Text "pieces make the text")

        testCase "memory is what it was, whatever became of some hundred requests" (fun () ->
            withWeights Dtype.F32 model (fun weights ->
                let checkpoint = over 2 3 weights
                // The angles stay as long as the model.
                complete weights (options Strategy.Autoregressive 4) [| 1 |] |> ignore
                let before = liveTensors ()

                (use engine = new Engine(checkpoint, { none with PrefixTexts = 4; Slots = 4 })
                 concurrently engine checkpoint 20 12 (fun index -> index % 5 = 0) |> ignore
                 let held, bytes = liveTensors (), engine.Counts.PrefixBytes

                 for _ in 1..10 do
                     concurrently engine checkpoint 30 12 (fun index -> index % 5 = 0) |> ignore

                 // Four texts of about as many positions.
                 Expect.isLessThanOrEqual (liveTensors ()) (held + 8L) "tensors"
                 Expect.isLessThanOrEqual engine.Counts.PrefixBytes (2L * bytes) "bytes"
                 Expect.equal engine.Counts.PrefixTexts 4 "texts")

                Expect.equal (liveTensors ()) before "none is left"))

        testCase
            "a queue takes what it may, and refuses with the numbers; a cancelled request makes room"
            (fun () ->
                withEngine { none with Slots = 1; Queue = 2 } (fun engine _ ->
                    let request = EngineRequest.create (options Strategy.Autoregressive 4) [| 1; 2 |]
                    use cancelled = new CancellationTokenSource()

                    (use _busy = occupy engine
                     let first = submit engine { request with Cancelled = cancelled.Token }
                     let second = submit engine request

                     match engine.Submit request with
                     | Error(EngineRefusal.Full(1, 2)) -> ()
                     | other -> failtest $"%A{other}"

                     Expect.equal (engine.Counts.Running, engine.Counts.Waiting) (1, 2) "counts"
                     Expect.equal engine.Counts.Refused 1L "refused"
                     cancelled.Cancel()
                     submit engine request |> ignore
                     ignore (first, second))

                    let last = submit engine request
                    Expect.equal last.Completed.Result.TokenIds.Length 4 "and goes on"))

        testCase "a prompt or options at fault are refused at once, all faults together" (fun () ->
            withEngine none (fun engine _ ->
                let bad = EngineRequest.create (options Strategy.Autoregressive 0) [| 99 |]

                match engine.Submit bad with
                | Error(EngineRefusal.Invalid faults) -> Expect.equal faults.Length 2 $"%A{faults}"
                | other -> failtest $"%A{other}"

                Expect.throwsT<LayerSkipException>
                    (fun () -> new Engine(engine.Checkpoint, { none with Slots = 0 }) |> ignore)
                    "no place"))

        testCase "every thread of the pool may be blocked: texts come all the same" (fun () ->
            withEngine none (fun engine _ ->
                use release = new ManualResetEventSlim()
                let blocked = [| for _ in 1..64 -> Task.Run(fun () -> release.Wait()) |]

                let tickets = [
                    for i in 1..8 ->
                        EngineRequest.create (options Strategy.Autoregressive 16) [| i |] |> submit engine
                ]

                for ticket in tickets do
                    Expect.equal (tokensOf (drained ticket)).Length 16 "a text"

                Expect.isFalse (Task.WaitAll(blocked, 0)) "still blocked"
                release.Set()
                Task.WaitAll blocked))

        testCase "it all happens on one thread of its own" (fun () ->
            withEngine none (fun engine _ ->
                let where () =
                    match
                        engine.Run(
                            (fun _ ->
                                Thread.CurrentThread.ManagedThreadId,
                                Thread.CurrentThread.IsThreadPoolThread),
                            CancellationToken.None
                        )
                    with
                    | Ok task -> task.Result
                    | Error refusal -> failtest $"%A{refusal}"

                let first, isPool = where ()
                Expect.isFalse isPool "no thread of the pool"
                Expect.equal (where ()) (first, false) "the same"

                let failing = engine.Run((fun _ -> invalidOp "no"), CancellationToken.None)

                match failing with
                | Ok(task: Task<int>) ->
                    Expect.throwsT<InvalidOperationException>
                        (fun () -> task.GetAwaiter().GetResult() |> ignore)
                        "its own fault"
                | Error refusal -> failtest $"%A{refusal}"

                Expect.equal (where ()) (first, false) "it goes on"))

        testCase "one that fails ends alone" (fun () ->
            withWeights Dtype.F32 { model with Config.TiedHead = false } (fun weights ->
                // Id 7 is not a number from its embedding on.
                Scope.free (fun () ->
                    weights.Embedding.Tensor.select(0L, 7L).fill_(nan.ToScalar()) |> ignore)

                let checkpoint = over 2 3 weights
                use engine = new Engine(checkpoint, none)
                let options = options Strategy.Autoregressive 12
                let good = EngineRequest.create options [| 1; 2 |]
                let tickets = [
                    submit engine good
                    submit engine { good with Prompt = [| 7 |] }
                    submit engine { good with Prompt = [| 3; 2 |] }
                ]

                let ends = tickets |> List.map (drained >> tokensOf >> Array.length)
                Expect.equal ends[1] 0 "no text"
                Expect.isTrue tickets[1].Completed.IsFaulted "a fault"
                Expect.equal engine.Counts.Failed 1L "counted"
                Expect.isTrue tickets[0].Completed.IsCompletedSuccessfully "the one before"
                Expect.isTrue tickets[2].Completed.IsCompletedSuccessfully "the one after"))

        testCase "dispose cancels what is under way and frees it; drain finishes it" (fun () ->
            withWeights Dtype.F32 model (fun weights ->
                let checkpoint = over 2 3 weights
                let request = EngineRequest.create (options Strategy.Autoregressive 400) [| 1; 2 |]

                let engine = new Engine(checkpoint, { none with Slots = 2 })
                let tickets = [ for _ in 1..6 -> submit engine request ]
                tickets.Head.Events.ReadAsync().AsTask().Wait()
                (engine :> IDisposable).Dispose()

                for ticket in tickets do
                    Expect.isTrue
                        (ticket.Completed.IsCanceled || ticket.Completed.IsCompletedSuccessfully)
                        "an end"

                Expect.isTrue (List.last tickets).Completed.IsCanceled "the last had no turn"

                match engine.Submit request with
                | Error EngineRefusal.Closed -> ()
                | other -> failtest $"%A{other}"

                (engine :> IDisposable).Dispose()

                let engine = new Engine(checkpoint, { none with Slots = 2 })
                let tickets = [ for _ in 1..6 -> submit engine request ]
                engine.Drain(CancellationToken.None).Wait()

                for ticket in tickets do
                    Expect.equal ticket.Completed.Result.TokenIds.Length 400 "finished"

                let engine = new Engine(checkpoint, { none with Slots = 2 })
                let tickets = [ for _ in 1..6 -> submit engine request ]
                use cancelled = new CancellationTokenSource()
                let draining = engine.Drain cancelled.Token
                cancelled.Cancel()
                draining.Wait()
                Expect.isTrue (List.last tickets).Completed.IsCanceled "drained no longer"))

        testCase "one text is always written, and others wait for memory" (fun () ->
            withEngine { none with KvBytes = Some 1L } (fun engine _ ->
                let request = EngineRequest.create (options Strategy.Autoregressive 30) [| 1; 2 |]
                let tickets = [ for _ in 1..4 -> submit engine request ]

                for ticket in tickets do
                    Expect.equal ticket.Completed.Result.TokenIds.Length 30 "written"

                Expect.equal engine.Counts.PrefixTexts 0 "and nothing kept"))

        testCase "past texts are remembered only where that is asked for" (fun () ->
            let past = PastTexts 1000

            withEngine { none with Past = Some past } (fun engine _ ->
                let request = EngineRequest.create (options Strategy.Autoregressive 5) [| 1; 2 |]
                (submit engine request).Completed.Wait()
                Expect.equal past.Count 7 "prompt and text")

            withEngine none (fun engine _ -> Expect.isNone engine.Options.Past "off"))
    ]
