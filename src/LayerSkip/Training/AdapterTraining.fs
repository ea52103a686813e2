namespace LayerSkip

open System
open System.Diagnostics
open TorchSharp

/// What is trained behind which exit, and how.
type AdapterOptions = {
    Form: AdapterForm
    /// From 1.
    Exit: int
    /// The layer of the base, from 1, that a block begins as.
    Source: int
    /// Steps, batches and rates of the run. Its recipe counts for nothing: an adapter has one lesson.
    Run: TrainingOptions
}

[<RequireQualifiedAccess>]
module AdapterOptions =
    /// A run of 1000 steps of 8 texts of 256 ids, for an exit of a model of `layers` layers: a block begins as the last layer.
    let standard (layers: int) (form: AdapterForm) (exit: int) : AdapterOptions = {
        Form = form
        Exit = exit
        Source = layers
        Run = {
            TrainingOptions.standard (Recipe.tryPreset "plain" layers |> Check.getOrRaise) with
                BatchSize = 8
                Rate = { Peak = 1e-3; Warmup = 50; Floor = 0.05 }
                Adam = { AdamW.standard with WeightDecay = 0.01 }
        }
    }

    /// Every option outside its range, for a model.
    let faults (config: LlamaConfig) (options: AdapterOptions) : LayerSkipError list = [
        yield! ExitLayer.TryCreate(config.Layers, options.Exit) |> Check.faults
        yield!
            Check.inRange
                (options.Source >= 1 && options.Source <= config.Layers)
                "source-layer"
                (string options.Source)
                $"{LayerSkipError.oneTo config.Layers}, the layers of the model"
        match options.Form with
        | AdapterForm.LowRank rank ->
            yield! AdapterForm.tryCreate config.Hidden "lowrank" rank |> Check.faults
        | AdapterForm.Norm
        | AdapterForm.Block -> ()
        yield! TrainingOptions.faults config options.Run
    ]

/// An adapter that learns. Its tensors change in place, the base's never.
[<NoEquality; NoComparison>]
type AdapterTrainee = {
    /// float32 (float64 beside a base of float64), without kernels.
    Adapter: Adapter
    Optimiser: AdamWState
    Guard: LossGuard
    /// Steps made so far.
    Step: int
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Adapter :> IDisposable).Dispose()
            Scope.release (AdamWState.TensorsOf this.Optimiser)

/// What a step came to.
type AdapterReport = {
    /// From 1.
    Step: int
    Positions: int
    /// KL(base || adapted exit), in nats a position; NaN where the step had none.
    Divergence: float
    LearningRate: float
    /// Of all gradients together (L2), before clipping.
    GradientNorm: float
    /// Ids of texts that were read.
    Tokens: int64
    Spike: Spike option
    Seconds: float
}

/// What a run has beside the adapter.
[<NoEquality; NoComparison>]
type AdapterPlan = {
    Options: AdapterOptions
    /// The base, which stays as it is; without kernels.
    Weights: Weights
    /// Of the positions of a sample.
    Rope: Rope
    /// Samples by their numbers, over all epochs: the first one's, and how many.
    Read: int64 -> int -> Batch
}

/// Training an adapter: one step, and what is measured between steps.
[<RequireQualifiedAccess>]
module AdapterTraining =
    /// A plan over a base; its `Rope` is the caller's to dispose.
    let plan (options: AdapterOptions) (weights: Weights) (read: int64 -> int -> Batch) : AdapterPlan =
        let activations = ScalarType.activations weights.Device weights.Dtype

        let rope =
            Scope.keep Rope.tensorsOf (fun () ->
                Rope.table
                    weights.Config
                    options.Run.SequenceLength
                    activations
                    (Weights.torchDevice weights.Device))

        Scope.own (Rope.tensorsOf rope)
        { Options = options; Weights = Weights.withoutKernels weights; Rope = rope; Read = read }

    /// A trainee of an adapter, which it takes over.
    let trainee (adapter: Adapter) : AdapterTrainee =
        let tensors = Adapter.tensors adapter

        for tensor in tensors do
            tensor.requires_grad_ true |> ignore

        { Adapter = adapter; Optimiser = AdamW.start tensors; Guard = LossGuard.start; Step = 0 }

    /// A new adapter for a base. Errors are those of options that do not fit it.
    let start (options: AdapterOptions) (weights: Weights) : Result<AdapterTrainee, LayerSkipError list> =
        let config = weights.Config

        Check.all (AdapterOptions.faults config options) ()
        |> Result.bind (fun () -> ExitLayer.TryCreate(config.Layers, options.Exit))
        |> Result.map (fun exit ->
            Adapter.initial options.Run.Seed options.Source options.Form exit weights |> trainee)

    let private rowsAtOnce (weights: Weights) =
        LossOptions.rowsAtOnce weights.Device weights.Config.Vocabulary

    /// Whether no tensor and no moment is NaN or infinite.
    let internal isFinite (trainee: AdapterTrainee) : bool =
        use _inference = Scope.inference ()

        Seq.append (Adapter.tensors trainee.Adapter) (AdamWState.TensorsOf trainee.Optimiser)
        |> Seq.forall Tensors.isFinite

    /// One step of the optimiser over all micro-batches; the gradient is that of the mean over the step's positions. The trainee's
    /// tensors change in place; on an error they have not.
    let step (plan: AdapterPlan) (trainee: AdapterTrainee) =
        let started = Stopwatch.GetTimestamp()
        let options, step = plan.Options.Run, trainee.Step
        use _scope = Scope.start ()
        let tensors = Adapter.tensors trainee.Adapter

        for tensor in tensors do
            tensor.grad <- null

        let perStep = int64 options.BatchSize * int64 options.Accumulate
        let first micro = int64 step * perStep + int64 (micro * options.BatchSize)
        let batches = Array.init options.Accumulate (fun micro -> plan.Read (first micro) options.BatchSize)
        let positions = batches |> Array.sumBy Batch.tokens
        let scale = 1.0 / float (max 1 positions)
        let rows = rowsAtOnce plan.Weights

        let sums =
            batches
            |> Array.map (AdapterLoss.backward rows plan.Rope plan.Weights trainee.Adapter scale)

        let gradients = tensors |> Array.map (fun tensor -> Option.ofObj tensor.grad)
        let norm = AdamW.norm gradients
        let divergence = Array.sum (Tensors.toFloats (torch.stack sums)) * scale

        let struct (judgement, guard) =
            if positions = 0 then
                struct (Judgement.Calm, trainee.Guard)
            else
                LossGuard.judge options.OnSpike trainee.Guard divergence norm

        let rate = RateOptions.at options.Steps options.Rate step

        let moved (spike: Spike option) (optimiser: AdamWState) =
            Ok(
                struct ({
                            Step = step + 1
                            Positions = positions
                            Divergence = if positions = 0 then nan else divergence
                            LearningRate = rate
                            GradientNorm = norm
                            Tokens =
                                batches
                                |> Array.sumBy (fun batch ->
                                    int64 (batch.Ids.Length * batch.Ids[0].Length - batch.Padding))
                            Spike = spike
                            Seconds = Stopwatch.GetElapsedTime(started).TotalSeconds
                        },
                        { trainee with Optimiser = optimiser; Guard = guard; Step = step + 1 })
            )

        let move () =
            let scale = TrainingOptions.clip norm options
            AdamW.step options.Adam rate scale tensors gradients trainee.Optimiser

        match judgement with
        | Judgement.Calm -> move () |> moved None
        | Judgement.Spiked spike when spike.IsSkipped -> trainee.Optimiser |> moved (Some spike)
        | Judgement.Spiked spike -> move () |> moved (Some spike)
        | Judgement.Ends why ->
            Error { Step = step + 1; Samples = (first 0, first options.Accumulate - 1L); What = why }

    /// The gap of the exit as it is, and of the adapted one, over batches.
    let validate (plan: AdapterPlan) (adapter: Adapter) (batches: Batch list) : struct (ExitGap * ExitGap) =
        let measure =
            AdapterLoss.measure (rowsAtOnce plan.Weights) plan.Rope plan.Weights plan.Options.Exit [ adapter ]

        let both (struct (bare, adapted)) batch =
            match measure batch with
            | [ b; a ] -> struct (ExitGap.Plus bare b, ExitGap.Plus adapted a)
            | gaps -> invalidOp $"{gaps.Length} gaps of two exits"

        batches |> List.fold both (struct (ExitGap.Zero, ExitGap.Zero))
