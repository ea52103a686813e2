namespace LayerSkip

open System

/// Why a run ended.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type TrainingEnd =
    /// All steps are made.
    | Finished
    /// Somebody asked for it.
    | Stopped
    /// A step went wrong; the weights are those before it.
    | Failed of TrainingFault
    /// A checkpoint could not be written.
    | Unwritable of LayerSkipError list

/// What a run has come to, as it goes on; steps count from 1.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type TrainingEvent =
    | Stepped of StepReport
    /// Mean cross entropy of each exit on the validation text, in nats; at step 0, of the model as it was.
    | Validated of step: int * entropies: float[]
    /// Share of drafted tokens that the decoder accepted, by exit layer.
    | Probed of step: int * accepted: (int * float) list
    /// A checkpoint, and where it is.
    | Saved of step: int * folder: string
    /// The last event.
    | Ended of step: int * TrainingEnd

/// What a run looks at while it goes on.
[<NoEquality; NoComparison>]
type TrainingWatch = {
    /// Validation text, with something to learn; none: no validation.
    Validation: Batch list
    /// Prompts of acceptance probes; none: no probes.
    Prompts: int[][]
    /// New tokens of a probe's text.
    NewTokens: int
    /// Writes a checkpoint, and says where.
    Save: Trainee -> Result<string, LayerSkipError list>
    /// Whether somebody asks for an end; asked after each step.
    IsStopped: unit -> bool
}

/// The loop over steps: validation, probes and checkpoints when they are due.
[<RequireQualifiedAccess>]
module TrainingRun =
    let private due every steps step = every > 0 && (step % every = 0 || step = steps)

    /// Makes the steps that are left, as they are asked for; the last event is `Ended`. The trainee's tensors change in
    /// place. Of several ranks the first alone validates, probes and saves.
    let run (plan: TrainingPlan) (watch: TrainingWatch) (trainee: Trainee) : seq<TrainingEvent> =
        let options, ranks = plan.Options, plan.Ranks
        let isFirst = ranks.Rank = 0

        let validated (trainee: Trainee) : TrainingEvent list = [
            if
                isFirst
                && not watch.Validation.IsEmpty
                && due options.ValidateEvery options.Steps trainee.Step
            then
                TrainingEvent.Validated(trainee.Step, Training.validate plan trainee.Weights watch.Validation)
        ]

        let looks (trainee: Trainee) : TrainingEvent list = [
            let step = trainee.Step
            yield! validated trainee

            if isFirst && watch.Prompts.Length > 0 && due options.ProbeEvery options.Steps step then
                let acceptance exit =
                    Training.acceptance trainee.Weights exit options.ProbeDraft watch.NewTokens watch.Prompts

                TrainingEvent.Probed(step, [ for exit in options.ProbeExits -> exit, acceptance exit ])
        ]

        // One rank's wish is every rank's.
        let isStopped () = Ranks.anyOf (watch.IsStopped()) ranks

        let ended step reason = TrainingEvent.Ended(step, reason)

        let failed step what =
            let samples = TrainingPlan.samplesOfStep plan (max 0 (step - 1))
            ended step (TrainingEnd.Failed { Step = step; Samples = samples; What = what })

        // Numbers that overflow end the run as a loss that is not finite does.
        let unlessOverflow (look: Trainee -> TrainingEvent list) (trainee: Trainee) : TrainingEvent list =
            try
                look trainee
            with :? LayerSkipException as fault when List.exists LayerSkipError.isFailure fault.Errors -> [
                failed trainee.Step fault.Message
            ]

        let isOver = List.exists (fun (event: TrainingEvent) -> event.IsEnded)

        let save (trainee: Trainee) (after: TrainingEvent list) : TrainingEvent list =
            if isFirst && not (Training.isFinite trainee) then
                // The loss would say so a step later, and the checkpoint could not be gone on from.
                [ failed trainee.Step "the weights or the optimiser hold NaN or infinity" ]
            elif isFirst then
                match watch.Save trainee with
                | Ok folder -> TrainingEvent.Saved(trainee.Step, folder) :: after
                | Error faults -> [ ended trainee.Step (TrainingEnd.Unwritable faults) ]
            else
                after

        // A run that stops at spikes saves none of their weights while it waits for what they were.
        let isCalm (trainee: Trainee) = options.OnSpike <> SpikeRule.Stop || trainee.Guard.InARow = 0

        let rec go (trainee: Trainee) (isOwed: bool) : seq<TrainingEvent> =
            seq {
                if trainee.Step >= options.Steps then
                    ended trainee.Step TrainingEnd.Finished
                else
                    match Training.step plan trainee with
                    | Error fault -> ended trainee.Step (TrainingEnd.Failed fault)
                    | Ok(struct (report, next)) ->
                        TrainingEvent.Stepped report

                        let seen = unlessOverflow looks next
                        yield! seen
                        let stops = isStopped ()
                        let isDue = isOwed || due options.SaveEvery options.Steps next.Step

                        let events =
                            if isOver seen then
                                []
                            elif next.Step >= options.Steps then
                                save next [ ended next.Step TrainingEnd.Finished ]
                            elif stops then
                                save next [ ended next.Step TrainingEnd.Stopped ]
                            elif isDue && isCalm next then
                                save next []
                            else
                                []

                        yield! events

                        if not (isOver seen || isOver events) then
                            yield! go next (isDue && not (isCalm next))
            }

        seq {
            let baseline =
                if trainee.Step = 0 then
                    unlessOverflow validated trainee
                else
                    []
            yield! baseline

            if not (isOver baseline) then
                yield! go trainee false
        }
