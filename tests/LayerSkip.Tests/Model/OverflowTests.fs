module LayerSkip.Tests.OverflowTests

open System
open System.Runtime.InteropServices
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.TensorSupport

Backend.ensure ()

/// A model that adds nothing to the embedding but where it reads `trigger`: there the MLP of one layer (from 1; above the
/// last: the head) gives more than the dtype of activations holds. After id 5 it writes the trigger, else 0.
let private layers, trigger = 4, 7

let private set (tensor: Tensor) (row: int) (column: int) (value: float) =
    tensor.select(0L, int64 row).select(0L, int64 column).fill_(value.ToScalar()) |> ignore

/// The same with `edit` as what the layer's MLP is, or the head.
let private spoilt (edit: Weights -> unit) (dtype: Dtype) : Weights =
    let config = { Tiny.config 24 layers 2 1 false with Context = 600 }
    use zeros = Weights.random 1L 1.0 Dtype.F64 Device.Cpu config

    Scope.free (fun () ->
        for tensor in Weights.tensors zeros do
            tensor.fill_ ((if tensor.shape.Length = 1 then 1.0 else 0.0).ToScalar()) |> ignore

        // Channel 0 marks the trigger, channel 1 the id before it; both have others beside them, so that norms are usual.
        for id in 0..23 do
            set zeros.Embedding.Tensor id 2 1.0

        set zeros.Embedding.Tensor trigger 0 1.0
        set zeros.Embedding.Tensor 5 1 1.0
        set zeros.Head.Tensor trigger 1 1.0
        set zeros.Head.Tensor 0 2 0.1

        edit zeros)

    let stored = [
        for name, tensor in Weights.named zeros ->
            let values = Tensors.toFloats tensor
            {
                Name = name
                Shape = tensor.shape
                Format = "F64"
                Dtype = Dtype.F64
                Fill = fun _ memory -> Marshal.Copy(values, 0, memory.Address, values.Length)
                Blocks = None
            }
    ]

    StoredWeights.load dtype Device.Cpu config stored |> Check.getOrRaise

/// The MLP of a layer reads the trigger as `norm` and multiplies it by `weight` on each of three ways.
let private excited (layer: int) (norm: float) (weight: float) (weights: Weights) =
    let layer = weights.Layers[layer - 1]
    layer.MlpNorm.Tensor.fill_ (norm.ToScalar()) |> ignore
    set layer.GateUp.Tensor 0 0 weight
    set layer.GateUp.Tensor 24 0 weight
    set layer.Down.Tensor 3 0 weight

let private fragile (culprit: int) (dtype: Dtype) : Weights =
    let huge =
        match dtype with
        | Dtype.F64 -> 1e308
        | Dtype.F16 -> 65504.0
        | _ -> 3e38

    let edit (weights: Weights) =
        if culprit > layers then
            set weights.Head.Tensor 3 0 huge
            weights.Norm.Tensor.fill_ (1e36.ToScalar()) |> ignore
        else
            excited culprit 1e15 huge weights

    spoilt edit dtype

/// What the layer before gives is finite, and its squares are not: the norm that `culprit` reads it by overflows.
let private swollen (culprit: int) (dtype: Dtype) : Weights =
    spoilt (excited (culprit - 1) (if dtype = Dtype.F64 then 1e100 else 1e10) 1.0) dtype

let private strategies =
    Strategy.Autoregressive
    :: [
        for exit in 1 .. layers - 1 do
            for draft in [ 1; 3 ] do
                Strategy.SelfSpeculative(Tiny.exit layers exit, draft)
    ]

let private samplings = [
    Sampling.Greedy
    Sampling.Filtered(1e-3, 0, 1.0, 0.0)
    Sampling.Filtered(1e-3, 5, 0.9, 0.0)
]

let private place culprit =
    if culprit > layers then
        "the head"
    else
        $"layer {culprit} of {layers}"

let private expectOverflowAt culprit (isPlace: int -> bool) (found: Result<'T, LayerSkipError list>) =
    match found with
    | Error [ LayerSkipError.Overflow(where, at, _) as fault ] ->
        Expect.isTrue (where.StartsWith(place culprit)) $"{where} should be {place culprit}"
        Expect.isTrue (isPlace at) $"position {at}"
        Expect.isTrue (LayerSkipError.isFailure fault) "no bad input"
        Expect.isFalse ((LayerSkipError.message fault).Contains '\n') "one line"
    | other -> failtest $"expected an overflow, found %A{other}"

let private expectOverflow culprit position found = expectOverflowAt culprit ((=) position) found

let private caught (body: unit -> 'T) : Result<'T, LayerSkipError list> =
    try
        Ok(body ())
    with :? LayerSkipException as fault ->
        Error fault.Errors

[<Tests>]
let tests =
    testSequenced
    <| testList "numbers that overflow" [
        for dtype in [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ] do
            testCase $"{dtype}: end a text, naming the layer and the position where they begin" (fun () ->
                // No head of float16 reaches beyond float32.
                for culprit in (if dtype = Dtype.F16 then [ 1; 3; 4 ] else [ 1; 3; 4; 5 ]) do
                    use weights = fragile culprit dtype

                    for strategy in strategies do
                        for sampling in samplings do
                            let complete prompt =
                                Generation.complete
                                    weights
                                    None
                                    { Tiny.options strategy 6 with Sampling = sampling }
                                    prompt

                            // In the prompt, in the text, and never.
                            complete [| 1; 2; 7 |] |> expectOverflow culprit 2
                            complete [| 1; 2; 5 |] |> expectOverflow culprit 3
                            let harmless = complete [| 1; 2; 3 |] |> Check.getOrRaise
                            Expect.equal harmless.TokenIds [| 0; 0; 0; 0; 0; 0 |] "finite elsewhere"

                            // Later layers carry them on to later positions.
                            if culprit < layers then
                                complete [| 1; 2; 7; 1 |] |> expectOverflow culprit 2)

        for dtype in [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ] do
            testCase $"{dtype}: end a text where a norm's squares overflow over finite states" (fun () ->
                for culprit in 2 .. layers + 1 do
                    use weights = swollen culprit dtype

                    for weights in [ weights; Weights.withoutKernels weights ] do
                        for strategy in strategies do
                            let complete prompt =
                                Generation.complete weights None (Tiny.options strategy 6) prompt

                            // libtorch multiplies what a row may not see by 0: the rows before are no numbers either.
                            let isPlace position at =
                                at = position || weights.Kernels.IsNone && at < position

                            complete [| 1; 2; 7 |] |> expectOverflowAt culprit (isPlace 2)
                            complete [| 1; 2; 5 |] |> expectOverflowAt culprit (isPlace 3)
                            let harmless = complete [| 1; 2; 3 |] |> Check.getOrRaise
                            Expect.equal harmless.TokenIds [| 0; 0; 0; 0; 0; 0 |] "finite elsewhere")

        testCase "a norm of finite rows is what it was, and so are its gradients" (fun () ->
            use _scope = Scope.start ()

            for kind in [ torch.float64; torch.float32; torch.bfloat16; torch.float16 ] do
                let weight = torch.rand ([| 24L |], kind)
                let rows = torch.randn ([| 5L; 24L |], kind)
                // The largest whose squares are finite.
                rows.select(0L, 0L).mul_((if kind = torch.float16 then 1e4 else 1e18).ToScalar())
                |> ignore

                let bits norm =
                    let x = rows.detach().clone().requires_grad_ true
                    let normed: Tensor = norm x
                    normed.backward [| torch.ones_like normed |]
                    bytesOf normed, bytesOf x.grad

                let asBefore (x: Tensor) =
                    let wide = if kind = torch.float64 then x else x.``to`` torch.float32
                    let mean = (wide * wide).mean([| -1L |], true)
                    let normed = wide * mean.add_(1e-5.ToScalar()).rsqrt_()
                    normed.``to`` kind * weight

                Expect.isTrue (bits (Ops.rmsNorm weight 1e-5) = bits asBefore) $"{kind}"

                if kind <> torch.float16 then
                    let large = if kind = torch.float64 then 1e160 else 1e20
                    let x = torch.cat [| rows; rows * large.ToScalar() |]
                    let normed = Tensors.toFloats (Ops.rmsNorm weight 1e-5 x) |> Array.chunkBySize 24
                    Expect.isTrue (normed[..4] |> Array.concat |> Array.forall Double.IsFinite) "finite"
                    Expect.isTrue (normed[5..] |> Array.concat |> Array.forall Double.IsNaN) "overflowing")

        testCase "an early exit fails by the layers that it runs alone, and by the head after them" (fun () ->
            for culprit in [ 2; 5 ] do
                use weights = fragile culprit Dtype.F32

                for exit in 1 .. layers - 1 do
                    let complete () =
                        Generation.complete
                            weights
                            None
                            (Tiny.options (Strategy.EarlyExit(Tiny.exit layers exit)) 6)
                            [| 1; 2; 5 |]

                    if exit < culprit && culprit <= layers then
                        Expect.isOk (complete ()) "layers that it never runs"
                    else
                        complete () |> expectOverflow culprit 3)

        testCase "a draft that overflows is refused: the text is the whole model's" (fun () ->
            // Plain decoding never reads the trigger; these drafts hold it, at each place. (Of the kernels, which skip what
            // a row may not see; libtorch multiplies it by 0, and infinity times 0 is no number.)
            for dtype in [ Dtype.F32; Dtype.BF16 ] do
                for make, culprit in
                    List.allPairs [ fragile ] [ 1..layers ] @ List.allPairs [ swollen ] [ 2 .. layers + 1 ] do
                    use weights = make culprit dtype
                    let plain =
                        Generation.complete weights None (Tiny.options Strategy.Autoregressive 6) [|
                            1
                            2
                            3
                        |]
                    let expected = (Check.getOrRaise plain).TokenIds

                    for exit in 1 .. layers - 1 do
                        for at in 3..7 do
                            let drafter =
                                Tiny.exit layers exit
                                |> Drafter.alteredExit (fun place token ->
                                    if place = at then trigger else token)

                            let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed 3)

                            let completion =
                                Generation.complete weights None (Tiny.options strategy 6) [| 1; 2; 3 |]
                                |> Check.getOrRaise

                            Expect.equal
                                completion.TokenIds
                                expected
                                $"{dtype}, layer {culprit}, exit {exit}, at {at}")

        testCase "a text far longer than what is read again at once" (fun () ->
            use weights = fragile 3 Dtype.F32

            for position in [ 0; 255; 256; 257; 511; 590 ] do
                let prompt = Array.init 595 (fun at -> if at = position then trigger else at % 5)

                Generation.complete weights None (Tiny.options Strategy.Autoregressive 2) prompt
                |> expectOverflow 3 position)

        testCase "a sequence that is pulled brings what was certain, then the exception" (fun () ->
            use weights = fragile 2 Dtype.F32
            let pulled = ResizeArray()

            let events =
                Generation.run weights None (Tiny.options Strategy.Autoregressive 6) [| 1; 2; 5 |]
                |> Check.getOrRaise

            caught (fun () -> Seq.iter pulled.Add events) |> expectOverflow 2 3
            Expect.hasLength pulled 1 "the token before it")

        testCase "certify and the acceptance and validation of training fail alike" (fun () ->
            use weights = fragile 2 Dtype.F32

            let model = Checkpoint.ofWeights "fragile" weights None

            caught (fun () -> Certify.run model { Certify.options with Prompts = [| [| 1; 7; 2 |] |] })
            |> expectOverflow 2 1

            caught (fun () -> Training.acceptance weights 1 3 8 [| [| 1; 2; 3 |]; [| 1; 5 |] |])
            |> expectOverflow 2 2)

        testCase
            "a run ends where its validation or its probe overflows, before the first step too"
            (fun () ->
                let harmless = Batch.ofIds (Array.create 2 [| 1; 2; 3; 4; 1; 2 |])

                let run validation prompts =
                    use session = fragile 2 Dtype.F32 |> Training.start
                    let recipe = Recipe.tryPreset "plain" layers |> Check.getOrRaise

                    let options = {
                        TrainingOptions.standard recipe with
                            Steps = 3
                            BatchSize = 2
                            SequenceLength = 6
                            Rate = { Peak = 1e-9; Warmup = 1; Floor = 1.0 }
                            ClipNorm = 1e-9
                            ValidateEvery = 1
                            ProbeEvery = 1
                            ProbeExits = [ 2 ]
                    }

                    let parts = Recipe.tryBuild layers options.Steps 1L recipe |> Check.getOrRaise
                    let plan = Training.plan options parts Ranks.alone session.Weights (fun _ _ -> harmless)

                    let watch = {
                        Validation = validation
                        Prompts = prompts
                        NewTokens = 4
                        Save = fun _ -> Ok "nowhere"
                        IsStopped = fun () -> false
                    }

                    let events = TrainingRun.run plan watch session |> List.ofSeq

                    for tensor in Rope.tensorsOf plan.Rope do
                        tensor.Dispose()

                    match List.last events with
                    | TrainingEvent.Ended(step, TrainingEnd.Failed fault) -> step, fault.What
                    | TrainingEvent.Ended(step, TrainingEnd.Finished) -> step, "finished"
                    | other -> failtest $"{other}"

                Expect.equal
                    (run [ harmless ] [| [| 1; 2 |] |])
                    (3, "finished")
                    "all is well without the trigger"
                let bad = Batch.ofIds [| [| 1; 2; 3; 4; 1; 2 |]; [| 1; 2; 3; 7; 1; 2 |] |]
                let step, what = run [ harmless; bad ] [||]
                Expect.equal step 0 "the validation of the model as it was"
                Expect.stringContains what "layer 2 of 4 is not finite at position 3" "validation"
                let step, what = run [] [| [| 1; 2 |]; [| 3; 5 |] |]
                Expect.equal step 1 "the first probe"
                Expect.stringContains what "layer 2 of 4 is not finite at position 2" "probe")

        testCase "whether logits are finite is asked of each, wherever it stands" (fun () ->
            for length in [ 1; 3; 8; 16; 17; 100 ] do
                for at in 0 .. length - 1 do
                    for value in [ nanf; infinityf; -infinityf ] do
                        let values = Array.init length (fun i -> float32 i - 3.0f)
                        Expect.isTrue (LayerSkip.Kernels.Search.AreFinite(ReadOnlySpan values)) "finite"
                        values[at] <- value
                        Expect.isFalse
                            (LayerSkip.Kernels.Search.AreFinite(ReadOnlySpan values))
                            $"{value} at {at} of {length}"

                        for sign in [ 1.0f; -1.0f ] do
                            let large = Array.create length (sign * Single.MaxValue)
                            Expect.isTrue
                                (LayerSkip.Kernels.Search.AreFinite(ReadOnlySpan large))
                                "the largest")
    ]
