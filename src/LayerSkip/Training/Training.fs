namespace LayerSkip

open System
open System.Diagnostics
open TorchSharp

/// One step of training, and what is measured between steps (LayerSkip, section 4.1).
[<RequireQualifiedAccess>]
module Training =
    /// A trainee from weights, which it takes over: it changes them in place, and disposes them.
    let start (weights: Weights) : Trainee =
        let weights = Weights.withoutKernels weights
        {
            Weights = weights
            Optimiser = AdamW.start (Weights.tensors weights)
            Guard = LossGuard.start
            Step = 0
        }

    /// Whether no weight and no moment is NaN or infinite.
    let internal isFinite (trainee: Trainee) : bool =
        use _inference = Scope.inference ()

        Seq.append (Weights.tensors trainee.Weights) (AdamWState.TensorsOf trainee.Optimiser)
        |> Seq.forall Tensors.isFinite

    /// The dtype in which the weights of a run are kept.
    let masterDtype (options: TrainingOptions) : Dtype =
        if options.Precision = Dtype.F64 then
            Dtype.F64
        else
            Dtype.F32

    /// A run's plan over weights, which gives it their configuration and device alone; its `Rope` is the caller's to dispose.
    let plan
        (options: TrainingOptions)
        (parts: RecipeParts)
        (ranks: Ranks)
        (weights: Weights)
        (read: int64 -> int -> Batch)
        : TrainingPlan =
        let activations = ScalarType.activations weights.Device options.Precision

        let rope =
            Scope.keep Rope.tensorsOf (fun () ->
                Rope.table
                    weights.Config
                    options.SequenceLength
                    activations
                    (Weights.torchDevice weights.Device))

        Scope.own (Rope.tensorsOf rope)
        { Options = options; Parts = parts; Ranks = ranks; Rope = rope; Read = read }

    /// What a run's matrices are multiplied in on a device: float32 where its bfloat16 would be slower.
    let productDtype (device: Device) (options: TrainingOptions) : Dtype =
        match device, options.Precision with
        | Device.Cpu, Dtype.BF16 when not Bfloat16.isFast -> Dtype.F32
        | _, precision -> precision

    /// Leaves that gradients gather in: over the same memory on a CPU, in the dtype of the passes on CUDA.
    let private leaves (options: TrainingOptions) (weights: Weights) : Weights =
        let precision =
            match weights.Device with
            | Device.Cpu -> masterDtype options
            | Device.Cuda -> options.Precision

        let activations = ScalarType.activations weights.Device precision

        let leaf (tensor: Tensor) =
            let kind =
                if tensor.shape.Length > 1 then
                    ScalarType.ofDtype precision
                else
                    activations

            tensor.``to``(kind).detach().requires_grad_ true

        { Weights.mapTensors leaf weights with Dtype = precision }

    /// The leaves as the passes read them: on a CPU bfloat16 is for products alone, so that norms, softmax, residuals and
    /// the sums of gradients stay float32.
    let private passes (options: TrainingOptions) (leaves: Weights) : Weights =
        match leaves.Device, productDtype leaves.Device options with
        | Device.Cpu, Dtype.BF16 -> Weights.withProductsIn Dtype.BF16 leaves
        | _ -> leaves

    /// Gradients in the masters' dtype, summed over the ranks; None where no rank has one.
    let private gradients (ranks: Ranks) (masters: Tensor[]) (leaves: Tensor[]) : Tensor option[] =
        let own =
            (masters, leaves)
            ||> Array.map2 (fun master leaf -> Option.ofObj leaf.grad |> Option.map _.``to``(master.dtype))

        if ranks.Count = 1 then
            own
        else
            let counts = own |> Array.map (fun g -> if g.IsSome then 1.0 else 0.0) |> ranks.Sum

            let shared =
                (masters, own, counts)
                |||> Array.map3 (fun master gradient count ->
                    if count = 0.0 then
                        None
                    else
                        Some(gradient |> Option.defaultWith (fun () -> torch.zeros_like master)))

            shared |> Array.choose id |> List.ofArray |> ranks.SumInPlace
            shared

    let private sumOver (ranks: Ranks) (sums: LossSums) : LossSums =
        if ranks.Count = 1 then
            sums
        else
            let layers = sums.CrossEntropy.Length

            let all =
                Array.concat [ [| float sums.Tokens; sums.Objective |]; sums.CrossEntropy; sums.Divergence ]
                |> ranks.Sum

            {
                Tokens = int all[0]
                Objective = all[1]
                CrossEntropy = all[2 .. 1 + layers]
                Divergence = all[2 + layers ..]
            }

    /// One step of the optimiser over all micro-batches and ranks, which make it together; the gradient is that of the mean
    /// over the step's tokens. The trainee's tensors change in place; on an error they have not.
    let step (plan: TrainingPlan) (trainee: Trainee) : Result<struct (StepReport * Trainee), TrainingFault> =
        let started = Stopwatch.GetTimestamp()
        let options, ranks, step = plan.Options, plan.Ranks, trainee.Step
        use _scope = Scope.start ()
        let shares = plan.Parts.Shares step
        let leaves = leaves options trainee.Weights
        let weights = using (torch.enable_grad ()) (fun _ -> passes options leaves)

        let batches =
            Array.init options.Accumulate (fun micro ->
                let struct (first, place) = TrainingPlan.samplesOf plan step micro
                struct (first, place, plan.Read first options.BatchSize))

        let count (of': Batch -> int) =
            batches |> Array.sumBy (fun (struct (_, _, batch)) -> float (of' batch))

        let places (batch: Batch) = batch.Ids.Length * batch.Ids[0].Length
        let counts = ranks.Sum [| count Batch.tokens; count places; count _.Padding |]
        let total, padding = counts[0], counts[2]
        let read = counts[1] - padding

        let sums =
            batches
            |> Array.map (fun (struct (_, place, batch)) ->
                if total = 0.0 || Batch.tokens batch = 0 then
                    LossSums.zero shares.Length
                else
                    EarlyExitLoss.backward
                        (TrainingPlan.lossOptions plan weights)
                        plan.Rope
                        weights
                        shares
                        (TrainingPlan.wrapper plan place)
                        (1.0 / total)
                        batch)

        let masters = Weights.tensors trainee.Weights
        let gradients = gradients ranks masters (Weights.tensors leaves)
        let norm = AdamW.norm gradients
        let whole = sums |> Array.reduce LossSums.plus |> sumOver ranks

        let struct (judgement, guard) =
            match LossSums.perToken whole with
            | None -> struct (Judgement.Calm, trainee.Guard)
            | Some loss -> LossGuard.judge options.OnSpike trainee.Guard loss norm

        let rate = RateOptions.at options.Steps options.Rate step

        let move () =
            let scale = TrainingOptions.clip norm options
            AdamW.step options.Adam rate scale masters gradients trainee.Optimiser

        let moved (spike: Spike option) (optimiser: AdamWState) =
            Ok(
                struct ({
                            Step = step + 1
                            Sums = whole
                            Shares = shares
                            LearningRate = rate
                            GradientNorm = norm
                            Tokens = int64 read
                            Padding = int64 padding
                            Kept = TrainingPlan.kept plan shares.Length step
                            Spike = spike
                            Seconds = Stopwatch.GetElapsedTime(started).TotalSeconds
                        },
                        { trainee with Optimiser = optimiser; Guard = guard; Step = step + 1 })
            )

        match judgement with
        | Judgement.Calm -> move () |> moved None
        | Judgement.Spiked spike when spike.IsSkipped -> trainee.Optimiser |> moved (Some spike)
        | Judgement.Spiked spike -> move () |> moved (Some spike)
        | Judgement.Ends why ->
            // Of its own samples a rank knows which were no number.
            let culprit = sums |> Array.tryFindIndex (fun sums -> not (Double.IsFinite sums.Objective))

            let samples =
                match culprit with
                | Some micro ->
                    let struct (first, _, _) = batches[micro]
                    first, first + int64 options.BatchSize - 1L
                | None -> TrainingPlan.samplesOfStep plan step

            Error { Step = step + 1; Samples = samples; What = why }

    /// Mean cross entropy of each exit, in nats, over batches; none where they have nothing to learn. Every exit is graded,
    /// whatever the recipe. A LayerSkipException where the model's numbers overflow.
    let validate (plan: TrainingPlan) (weights: Weights) (batches: seq<Batch>) : float[] =
        let layers = weights.Config.Layers
        let shares = Array.create layers (1.0 / float layers)
        use _scope = Scope.start ()
        let weights = leaves plan.Options weights |> Weights.mapTensors _.detach() |> passes plan.Options
        let options = { TrainingPlan.lossOptions plan weights with Targets = LossOptions.standard.Targets }

        let measure = EarlyExitLoss.measure options plan.Rope weights shares Decoder.plain
        let sums = batches |> Seq.map measure |> Seq.fold LossSums.plus (LossSums.zero layers)

        let means =
            if sums.Tokens = 0 then
                [||]
            else
                sums.CrossEntropy |> Array.map (fun sum -> sum / float sums.Tokens)

        if not (Array.forall Double.IsFinite means) then
            batches
            |> Seq.collect _.Ids
            |> Seq.tryPick (Overflow.tryFind weights layers)
            |> Option.iter (fun fault -> raise (LayerSkipException [ fault ]))

        means

    /// The share of drafted tokens that the real decoder accepts from an exit, 0 to 1, greedily, over prompts of ids that it
    /// continues by `newTokens`: no stop token ends a text. A LayerSkipException where exit, prompt or length do not fit.
    let acceptance (weights: Weights) exit (draftLength: int) (newTokens: int) (prompts: int[][]) : float =
        use _noGrad = Scope.noGrad ()
        let weights = Weights.withKernels weights
        use _kernels = weights.Kernels |> Option.map (fun kernels -> kernels :> IDisposable) |> Option.toObj
        let exit = ExitLayer.TryCreate(weights.Config.Layers, exit) |> Check.getOrRaise

        let options = GenerationOptions.greedy (Strategy.SelfSpeculative(exit, draftLength)) newTokens

        let stats =
            prompts
            |> Array.map (fun prompt ->
                (Generation.complete weights None options prompt |> Check.getOrRaise).Stats)

        let drafted = stats |> Array.sumBy _.NumDraftTokens
        float (stats |> Array.sumBy _.NumAcceptedDraftTokens) / float (max 1 drafted)
