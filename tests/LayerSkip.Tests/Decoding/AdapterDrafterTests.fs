module LayerSkip.Tests.AdapterDrafterTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private forms = [ AdapterForm.Norm; AdapterForm.LowRank 3; AdapterForm.Block ]

/// An adapter with noise on all that it learns, so that it drafts neither what the exit does nor what the model says.
let private noisy (noise: float) (form: AdapterForm) (exit: ExitLayer) (weights: Weights) : Adapter =
    let adapter = Adapter.initial 5L 1 form exit weights
    use _scope = Scope.start ()

    for index, tensor in Array.indexed (Adapter.tensors adapter) do
        use generator = new torch.Generator(uint64 (index + 3))
        let law = torch.randn (tensor.shape, generator = generator)
        tensor.add_ ((law * noise).``to`` tensor.dtype) |> ignore

    if weights.Kernels.IsSome then
        Adapter.withKernels adapter
    else
        adapter

let private strategy (adapter: Adapter) draft =
    Strategy.Speculative(AdapterDrafter.create adapter, LengthPolicy.Fixed draft)

/// A drafter that wraps another one: every other round it drafts nothing, or what `other` does.
let rec private every second (other: Drafter) (own: Drafter) (turn: int) : Drafter = {
    new Drafter with
        member _.Name = "in turn"
        member _.Exit = own.Exit
        member _.Watch = own.Watch

        member _.Draft(request, reading) =
            if turn % second = 0 then
                let struct (drafts, reading, next) = own.Draft(request, reading)
                struct (drafts, reading, every second other next (turn + 1))
            else
                let struct (drafts, reading, next) = other.Draft(request, reading)
                struct (drafts, reading, every second next own (turn + 1))

        member _.Learn seen = every second (other.Learn seen) (own.Learn seen) turn
}

/// Drafting that chooses for itself over an adapter, where a draft costs next to nothing, or a fifth of a pass.
let private auto (adapter: Adapter) lookup cheap : Drafter =
    AutoDrafter.createOver adapter {
        Costs = {
            Rows = Array.init 8 (fun row -> 1.0 + cheap * float row)
            DraftBase = cheap
            DraftLayer = 0.0
        }
        Exits = []
        Start = None
        Longest = 6
        Lookup = lookup
        Past = None
    }

/// What the adapter says greedily after a text, by one pass of `Ops` over all of it.
let private saysAfter (weights: Weights) (adapter: Adapter) (text: int[]) : int =
    use _inference = Scope.inference ()
    let weights = Weights.withoutKernels weights
    let rope = Rope.table weights.Config text.Length torch.ScalarType.Float64 torch.CPU
    let plain = { adapter with Weights = Weights.withoutKernels adapter.Weights }

    Tensors.ofIds [| 1L; text.LongLength |] text
    |> Decoder.embed weights
    |> Decoder.runLayers Decoder.plain KvStore.none rope weights 0 adapter.Exit.Layers 0
    |> Adapter.run rope plain
    |> SharedHead.logits plain.Weights
    |> fun logits -> (Tensors.toIds (logits.argmax -1L))[text.Length - 1]

/// A drafter that checks each draft of another against what `expected` says after the text.
let rec private checking (expected: int[] -> int) (own: Drafter) : Drafter = {
    new Drafter with
        member _.Name = own.Name
        member _.Exit = own.Exit
        member _.Watch = own.Watch

        member _.Draft(request, reading) =
            let text = request.Text.ToArray()
            let struct (drafts, reading, next) = own.Draft(request, reading)
            let tokens = drafts |> Array.map _.Token

            for at in 0 .. tokens.Length - 1 do
                let before = Array.append text tokens[.. at - 1]
                Expect.equal tokens[at] (expected before) $"draft {at} after {text.Length} tokens"
                Expect.equal drafts[at].Source (DraftSource.Adapter own.Exit.Value.Layers) "its source"

            struct (drafts, reading, checking expected next)

        member _.Learn seen = checking expected (own.Learn seen)
}

[<Tests>]
let tests =
    testSequenced
    <| testList "adapter drafter" [
        for dtype in [ Dtype.F64; Dtype.F32 ] do
            testPropertyWithConfig
                (settings 15)
                $"writes plain decoding's text in {Dtype.name dtype}, in every form"
            <| fun (case: Case) ->
                withWeights dtype case.Model (fun weights ->
                    let plain = Tiny.complete weights (options Strategy.Autoregressive 20) case.Prompt
                    let exit = Tiny.exit case.Model.Config.Layers case.Exit

                    for form in forms do
                        for noise in [ 0.0; 0.3 ] do
                            use adapter = noisy noise form exit weights

                            for strategy in
                                [
                                    strategy adapter case.Draft
                                    Strategy.Adaptive(auto adapter true 0.0)
                                    Strategy.Adaptive(auto adapter true 0.2)
                                ] do
                                let own = Tiny.complete weights (options strategy 20) case.Prompt
                                Expect.equal own.TokenIds plain.TokenIds $"%A{form}")

        testPropertyWithConfig
            (settings 12)
            "drafts what the adapter says of the whole text, after whatever was refused"
        <| fun (case: Case) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                let exit = Tiny.exit case.Model.Config.Layers case.Exit

                for form in forms do
                    use adapter = noisy 0.3 form exit weights
                    let expected = saysAfter weights adapter
                    let own = checking expected (AdapterDrafter.create adapter)

                    let lookup = Drafter.promptLookup 2
                    let others = [
                        own
                        every 2 lookup own 0
                        checking expected (auto adapter false 0.0)
                        every 3 (Drafter.earlyExit (Tiny.exit case.Model.Config.Layers 1)) own 1
                    ]

                    for drafter in others do
                        let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed case.Draft)
                        Tiny.complete weights (options strategy 24) case.Prompt |> ignore)

        testPropertyWithConfig
            (settings 8)
            "a block that is the rest of the model drafts what the model says: all of it is kept"
        <| fun (case: Case) ->
            let config = { case.Model.Config with Layers = 2; Windows = Array.create 2 None }

            withWeights Dtype.F64 { case.Model with Config = config } (fun weights ->
                use adapter = Adapter.initial 5L 2 AdapterForm.Block (Tiny.exit 2 1) weights
                let own = Tiny.complete weights (options (strategy adapter case.Draft) 24) case.Prompt
                Expect.equal own.Stats.NumAcceptedDraftTokens own.Stats.NumDraftTokens "kept"
                Expect.isGreaterThan own.Stats.NumDraftTokens 0 "drafted")

        testPropertyWithConfig (settings 10) "its kernels say what Ops does"
        <| fun (case: Case) ->
            withWeights Dtype.F32 case.Model (fun weights ->
                let exit = Tiny.exit case.Model.Config.Layers case.Exit

                for form in forms do
                    use adapter = noisy 0.3 form exit weights
                    use _inference = Scope.inference ()

                    let at (weights: Weights) (adapter: Adapter) =
                        let cache = Cache.createKeeping [ exit.Layers ] weights exit.Layers 40
                        use _slab = cache.Slab
                        let struct (_, cache) = Model.forward weights 1 case.Prompt cache
                        let struct (hidden, _) =
                            Model.forwardAdapter
                                adapter
                                0
                                case.Prompt.Length
                                cache
                                (Cache.ofAdapter adapter cache)
                        (Model.logits hidden |> Logits.toFloats)[0]

                    let kernels = at weights adapter
                    let plain =
                        at (Weights.withoutKernels weights) {
                            adapter with
                                Weights = Weights.withoutKernels adapter.Weights
                        }
                    let largest = plain |> Array.map abs |> Array.max

                    for a, b in Array.zip kernels plain do
                        Expect.isLessThan (abs (a - b)) (1e-4 * (1.0 + largest)) $"%A{form}: {a} for {b}")

        testCase "its memory goes with the text's" (fun () ->
            let model = { Config = Tiny.config 24 4 4 2 true; Seed = 5L }

            withWeights Dtype.F32 model (fun weights ->
                use adapter = noisy 0.1 AdapterForm.Block (Tiny.exit 4 2) weights
                let write () =
                    Tiny.complete weights (options (strategy adapter 3) 30) [| 3; 4; 5 |] |> ignore
                write ()
                let live = liveTensors ()

                for _ in 1..5 do
                    write ()

                Expect.equal (liveTensors ()) live "tensors"))

        testCase "two texts at once, by one drafter" (fun () ->
            let model = { Config = Tiny.config 24 4 4 2 true; Seed = 5L }

            withWeights Dtype.F64 model (fun weights ->
                use adapter = noisy 0.1 AdapterForm.Block (Tiny.exit 4 2) weights
                let strategy = strategy adapter 3
                let run prompt =
                    Generation.run weights None (options strategy 20) prompt |> Check.getOrRaise
                let alone prompt = (Generation.result (run prompt)).TokenIds
                let a, b = [| 3; 4; 5 |], [| 9; 1 |]
                let expected = alone a, alone b
                use one = (run a).GetEnumerator()
                use other = (run b).GetEnumerator()
                let mutable ends = []

                while one.MoveNext() && other.MoveNext() do
                    for event in [ one.Current; other.Current ] do
                        match event with
                        | GenerationEvent.End(_, completion) -> ends <- completion.TokenIds :: ends
                        | _ -> ()

                while one.MoveNext() do
                    match one.Current with
                    | GenerationEvent.End(_, completion) -> ends <- completion.TokenIds :: ends
                    | _ -> ()

                while other.MoveNext() do
                    match other.Current with
                    | GenerationEvent.End(_, completion) -> ends <- completion.TokenIds :: ends
                    | _ -> ()

                Expect.containsAll [ fst expected; snd expected ] ends "each its own text"
                Expect.isNonEmpty ends "texts end"))
    ]
