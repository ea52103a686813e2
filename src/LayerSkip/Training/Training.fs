namespace LayerSkip

open System
open System.Diagnostics
open TorchSharp

[<RequireQualifiedAccess>]
module Training =
    /// A trainee from weights, which it takes over.
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
        use _noGrad = Scope.noGrad ()
        use _scope = Scope.start ()

        Seq.append (Weights.tensors trainee.Weights) (AdamWState.TensorsOf trainee.Optimiser)
        |> Seq.forall Tensors.isFinite

    /// The dtype in which the weights of a run are kept.
    let masterDtype (options: TrainingOptions) : Dtype =
        if options.Precision = Dtype.F64 then
            Dtype.F64
        else
            Dtype.F32

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
                Rope.table weights.Config options.SequenceLength activations weights.Embedding.device)

        Scope.own (Rope.tensorsOf rope)
        { Options = options; Parts = parts; Ranks = ranks; Rope = rope; Read = read }

    /// Leaves that gradients gather in, over the same memory or in the dtype of the passes.
    let private leaves (precision: Dtype) (weights: Weights) : Weights =
        let activations = ScalarType.activations weights.Device precision

        let leaf (tensor: Tensor) =
            let kind =
                if tensor.shape.Length > 1 then
                    ScalarType.ofDtype precision
                else
                    activations

            tensor.``to``(kind).detach().requires_grad_ true

        { Weights.mapTensors leaf weights with Dtype = precision }

    /// Gradients in the masters' dtype, summed over the ranks; None where no rank has one.
    let private gradients (ranks: Ranks) (masters: Tensor[]) (leaves: Tensor[]) : Tensor option[] =
        let own =
            Array.map2
                (fun (master: Tensor) (leaf: Tensor) ->
                    Option.ofObj leaf.grad |> Option.map (fun g -> g.``to`` master.dtype))
                masters
                leaves

        if ranks.Count = 1 then
            own
        else
            let counts = own |> Array.map (fun g -> if g.IsSome then 1.0 else 0.0) |> ranks.Sum

            let shared =
                Array.map3
                    (fun (master: Tensor) gradient count ->
                        if count = 0.0 then
                            None
                        else
                            Some(gradient |> Option.defaultWith (fun () -> torch.zeros_like master)))
                    masters
                    own
                    counts

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

    /// The samples of one micro-batch: the first one's number, and where it stands among the step's on this rank. Ranks
    /// read samples of their own and share the numbers of their draws, so that each drops as many (the paper's one seed
    /// for all).
    let internal samplesOf (plan: TrainingPlan) (step: int) (micro: int) : struct (int64 * BatchPlace) =
        let options, ranks = plan.Options, plan.Ranks
        let each = options.BatchSize
        let ofStep = int64 each * int64 options.Accumulate * int64 ranks.Count
        let first = int64 step * ofStep + int64 ((micro * ranks.Count + ranks.Rank) * each)
        struct (first, { Step = step; First = micro * each })

    let private lossOptions (plan: TrainingPlan) (weights: Weights) : LossOptions = {
        Targets = plan.Parts.Targets
        RowsAtOnce = LossOptions.rowsAtOnce weights.Device weights.Config.Vocabulary
        Recompute = plan.Options.Recompute
    }

    let private wrapper (plan: TrainingPlan) place : LayerWrapper =
        match plan.Parts.Dropout with
        | Some dropout -> LayerDropout.wrap dropout place
        | None -> Decoder.plain

    // The same on every rank.
    let private kept (plan: TrainingPlan) (layers: int) (step: int) : float[] =
        let samples = plan.Options.BatchSize * plan.Options.Accumulate

        match plan.Parts.Dropout with
        | None -> [||]
        | Some dropout ->
            Array.init layers (fun layer ->
                let rows = LayerDropout.kept dropout { Step = step; First = 0 } layer samples
                float rows.Length / float samples)

    /// The samples of a step, of all ranks: the first one's number and the last one's.
    let internal samplesOfStep (plan: TrainingPlan) (step: int) : int64 * int64 =
        let count = int64 plan.Options.BatchSize * int64 plan.Options.Accumulate * int64 plan.Ranks.Count

        int64 step * count, int64 (step + 1) * count - 1L

    /// One step of the optimiser over all micro-batches and ranks; the gradient is that of the mean over the step's tokens.
    let step (plan: TrainingPlan) (trainee: Trainee) : Result<struct (StepReport * Trainee), TrainingFault> =
        let started = Stopwatch.GetTimestamp()
        let options, ranks, step = plan.Options, plan.Ranks, trainee.Step
        use _scope = Scope.start ()
        let shares = plan.Parts.Shares step
        let leaves = leaves options.Precision trainee.Weights

        let batches =
            Array.init options.Accumulate (fun micro ->
                let struct (first, place) = samplesOf plan step micro
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
                        (lossOptions plan leaves)
                        plan.Rope
                        leaves
                        shares
                        (wrapper plan place)
                        (1.0 / total)
                        batch)

        let masters = Weights.tensors trainee.Weights
        let gradients = gradients ranks masters (Weights.tensors leaves)
        let norm = AdamW.norm gradients
        let whole = sums |> Array.reduce LossSums.plus |> sumOver ranks

        let judgement, guard =
            match LossSums.perToken whole with
            | None -> Judgement.Calm, trainee.Guard
            | Some loss ->
                let struct (judgement, guard) = LossGuard.judge options.OnSpike trainee.Guard loss norm
                judgement, guard

        let rate = RateOptions.at options.Steps options.Rate step

        let move () =
            let scale =
                if options.ClipNorm > 0.0 then
                    min 1.0 (options.ClipNorm / (norm + 1e-6))
                else
                    1.0

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
                            Kept = kept plan shares.Length step
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
                | None -> samplesOfStep plan step

            Error { Step = step + 1; Samples = samples; What = why }

    /// Mean cross entropy of each exit, in nats, over batches; none where they have nothing to learn. Every exit is graded,
    /// whatever the recipe. A LayerSkipException where the model's numbers overflow.
    let validate (plan: TrainingPlan) (weights: Weights) (batches: seq<Batch>) : float[] =
        let layers = weights.Config.Layers
        let shares = Array.create layers (1.0 / float layers)
        use _scope = Scope.start ()
        let weights = leaves plan.Options.Precision weights |> Weights.mapTensors _.detach()
        let options = { lossOptions plan weights with Targets = LossOptions.standard.Targets }

        let sums =
            batches
            |> Seq.fold
                (fun sums batch ->
                    EarlyExitLoss.measure options plan.Rope weights shares Decoder.plain batch
                    |> LossSums.plus sums)
                (LossSums.zero layers)

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

    /// The share of drafted tokens that the real decoder accepts from an exit, greedily, over prompts: no stop token ends a text.
    let acceptance
        (weights: Weights)
        (exit: int)
        (draftLength: int)
        (newTokens: int)
        (prompts: int[][])
        : float =
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
