namespace LayerSkip

open System
open System.IO

/// What a run of an adapter needs to go on, beside its tensors.
[<NoEquality; NoComparison>]
type AdapterState = {
    Options: AdapterOptions
    /// Where the base was found; the run does not change it.
    Model: string
    /// Steps made.
    Step: int
    /// Of each tensor.
    Updates: int list
    Guard: LossGuard
    /// SHA-256 of the files beside it, by name.
    Checksums: Map<string, string>
}

/// A run's folder: `checkpoint-N` for the latest steps, each with the adapter, its moments and `adapter_state.json`, and the finished
/// adapter in the folder itself. The base is in neither.
[<RequireQualifiedAccess>]
module AdapterCheckpoint =
    let private stateFile = "adapter_state.json"
    let private version = 1
    let private sealedFiles = [ AdapterFile.name; Moments.file ]

    let private checksums (folder: string) =
        Map [
            for name in sealedFiles -> name, TrainingState.checksum (Path.Combine(folder, name))
        ]

    let private formOf (name: string) (rank: int) =
        match name with
        | "norm" -> AdapterForm.Norm
        | "block" -> AdapterForm.Block
        | _ -> AdapterForm.LowRank rank

    let private rankOf (form: AdapterForm) =
        match form with
        | AdapterForm.LowRank rank -> rank
        | AdapterForm.Norm
        | AdapterForm.Block -> 0

    let private forms = [ for name in [ "norm"; "lowrank"; "block" ] -> name, name ]

    let private checksumFields: JsonField<Map<string, string>> list = [
        for name in sealedFiles ->
            JsonField.text name (Map.tryFind name >> Option.defaultValue "") (Map.add name)
    ]

    let private fields: JsonField<AdapterState> list = [
        JsonField.whole "version" (fun _ -> version) (fun _ it -> it)
        JsonField.text "model" _.Model (fun x it -> { it with Model = x })
        JsonField.whole "step" _.Step (fun x it -> { it with Step = x })
        JsonField.whole "rank" (_.Options.Form >> rankOf) (fun x it -> {
            it with
                Options.Form = AdapterForm.LowRank x
        })
        JsonField.oneOf "adapter" forms (_.Options.Form >> AdapterForm.name) (fun x it -> {
            it with
                Options.Form = formOf x (rankOf it.Options.Form)
        })
        JsonField.whole "exit_layer" _.Options.Exit (fun x it -> { it with Options.Exit = x })
        JsonField.whole "source_layer" _.Options.Source (fun x it -> { it with Options.Source = x })
        JsonField.wholes "updates" _.Updates (fun x it -> { it with Updates = x })
        JsonField.inside "guard" TrainingState.guardFields _.Guard (fun x it -> { it with Guard = x })
        JsonField.inside "checksums" checksumFields _.Checksums (fun x it -> { it with Checksums = x })
        TrainingFields.inside "options" _.Options.Run (fun x it -> { it with Options.Run = x })
    ]

    let private nothing: AdapterState = {
        Options = { Form = AdapterForm.Norm; Exit = 0; Source = 0; Run = TrainingFields.nothing }
        Model = ""
        Step = 0
        Updates = []
        Guard = LossGuard.start
        Checksums = Map.empty
    }

    /// Whether a folder is that of an adapter's run, which has come to a checkpoint.
    let isRun (output: string) : bool =
        TrainingCheckpoint.all output
        |> List.exists (fun (_, folder) -> File.Exists(Path.Combine(folder, stateFile)))

    let private bytes (state: AdapterState) = Json.write (fun json -> JsonField.write fields json state)

    /// Writes a checkpoint of an adapter of `weights`, and then removes the oldest; the folder.
    let save (output: string) (state: AdapterState) (weights: Weights) (trainee: AdapterTrainee) =
        let target = Path.Combine(output, $"checkpoint-{trainee.Step}")
        use _scope = Scope.start ()

        let fill folder =
            AdapterFile.write (Path.Combine(folder, AdapterFile.name)) weights trainee.Adapter
            |> Result.bind (fun () ->
                Moments.write folder (Adapter.namedLike trainee.Adapter) trainee.Optimiser)
            |> Result.bind (fun () ->
                let state = {
                    state with
                        Step = trainee.Step
                        Updates = List.ofArray trainee.Optimiser.Updates
                        Guard = trainee.Guard
                        Checksums = checksums folder
                }

                AtomicFile.writeBytes (Path.Combine(folder, stateFile)) (bytes state))

        AtomicFile.writeFolder target fill
        |> Result.bind (fun () ->
            WriteFault.guard (WriteFault.ofOpening output) (fun () ->
                TrainingCheckpoint.removeOld output state.Options.Run.Keep
                Ok target))

    /// Writes the finished adapter into the run's folder.
    let finish (output: string) (weights: Weights) (adapter: Adapter) : Result<unit, LayerSkipError list> =
        AdapterFile.write (Path.Combine(output, AdapterFile.name)) weights adapter

    /// The state in a checkpoint's folder; an error where the files beside it are not those that were written with it.
    let read (folder: string) : Result<AdapterState, LayerSkipError list> =
        let path = Path.Combine(folder, stateFile)

        Json.load path "a checkpoint of an adapter has one" (fun root ->
            let json = JsonReader(path, root)

            match json.Int("version", 0) with
            | found when found <> version ->
                Check.bad path $"has version {found}; this program reads {version}"
            | _ ->
                let state = JsonField.read fields json nothing
                Check.all json.Faults state)
        |> Result.bind (fun state ->
            let seals = [
                for KeyValue(name, expected) in state.Checksums do
                    let file = Path.Combine(folder, name)

                    if not (File.Exists file) then
                        LayerSkipError.NotFound(file, "a checkpoint of an adapter has one")
                    elif TrainingState.checksum file <> expected then
                        LayerSkipError.BadFile(
                            file,
                            "is not what training wrote there: its checksum is another"
                        )
            ]

            Check.all seals state)

    /// The trainee of a checkpoint, beside the base that the run began with.
    let load (folder: string) (state: AdapterState) (weights: Weights) =
        let master = if weights.Dtype = Dtype.F64 then Dtype.F64 else Dtype.F32

        Check.all (AdapterOptions.faults weights.Config state.Options) ()
        |> Result.bind (fun () -> AdapterFile.readIn master weights (Path.Combine(folder, AdapterFile.name)))
        |> Result.bind (fun adapter ->
            let trainee = { AdapterTraining.trainee adapter with Step = state.Step; Guard = state.Guard }

            if adapter.Base <> Adapter.fingerprint weights then
                Check.bad state.Model "is another model than the one that this run began with"
            else
                Moments.read folder (Adapter.namedLike adapter) "tensors" state.Updates trainee.Optimiser
                |> Result.map (fun optimiser -> { trainee with Optimiser = optimiser })
            |> Check.orDispose trainee)

    /// Gives a checkpoint other options, for good.
    let internal extend (folder: string) (options: AdapterOptions) : Result<unit, LayerSkipError list> =
        read folder
        |> Result.bind (fun state ->
            AtomicFile.writeBytes (Path.Combine(folder, stateFile)) (bytes { state with Options = options }))
