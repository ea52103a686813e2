namespace LayerSkip

open System

/// A run in its folder.
[<NoEquality; NoComparison>]
type TrainingSession = {
    Output: string
    Model: Checkpoint
    Trainee: Trainee
    Plan: TrainingPlan
    Data: Dataset
    /// What of the data is learned; None where texts are packed, which loses nothing.
    Coverage: Coverage option
    /// What the conversations come to that are learned; None where there are none.
    Conversations: ConversationCount option
    /// None where nothing validates.
    Validation: Dataset option
    /// What of it is graded, of the same ids whatever the batch size; none where it has nothing to learn.
    Graded: Batch list
    /// Whether its options are to be logged: it starts, or goes on with others.
    HasNewOptions: bool
    /// What is worth knowing of how it goes on, a line each.
    Remarks: string list
    /// Keeps other processes out of the folder; nothing on ranks but the first.
    Claim: IDisposable
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Trainee :> IDisposable).Dispose()

            for dataset in this.Data :: Option.toList this.Validation do
                (dataset.Tokens :> IDisposable).Dispose()

            Scope.release (Rope.tensorsOf this.Plan.Rope)
            this.Claim.Dispose()

/// A session over a run's folder, whether the run starts or goes on.
[<RequireQualifiedAccess>]
module internal RunParts =
    /// A session over what is in the folder. Its claim, and what else only the caller knows, is the caller's to add.
    let assemble output (options: TrainingOptions) ranks (model: Checkpoint) (trainee: Trainee) =
        Check.both
            (Check.both
                (RunData.openData output model.Config options)
                (ConversationCount.load (RunFolder.conversationsFile output)))
            (Recipe.tryBuild model.Config.Layers options.Steps options.Seed options.Recipe)
        |> Result.map (fun (((data, validation), conversations), parts) ->
            let graded =
                validation
                |> Option.map (Dataset.graded options.ValidationTokens options.BatchSize)
                |> Option.defaultValue []

            {
                Output = output
                Model = model
                Trainee = trainee
                Plan = Training.plan options parts ranks trainee.Weights (Dataset.reader data)
                Data = data
                Coverage = Dataset.coverage data
                Conversations = conversations
                Validation = validation
                Graded = graded
                HasNewOptions = false
                Remarks = [
                    if validation.IsSome && graded.IsEmpty then
                        $"the validation data have nothing to learn within {options.SequenceLength} ids of a text: nothing is validated"
                    if Training.productDtype trainee.Weights.Device options <> options.Precision then
                        "this processor has no products of bfloat16 (AVX512-BF16, AMX): the passes compute in float32, which is faster here"
                ]
                Claim = RunFolder.noClaim
            })
