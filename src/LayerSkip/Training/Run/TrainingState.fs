namespace LayerSkip

open System
open System.IO
open System.Security.Cryptography

/// What a run needs to go on, beside the weights.
[<NoEquality; NoComparison>]
type TrainingState = {
    Options: TrainingOptions
    /// Steps made.
    Step: int
    /// Processes that shared the run; the order of samples depends on it.
    Ranks: int
    /// Threads of each, on which the last bits of sums depend; 0 where an earlier version did not write them down.
    Threads: int
}

/// All of `training_state.json`.
[<NoEquality; NoComparison>]
type internal StoredState = {
    State: TrainingState
    /// Of each parameter.
    Updates: int list
    Guard: LossGuard
    /// SHA-256 of the files beside it, by name; none where the first version did not write them down.
    Checksums: Map<string, string>
}

/// The file of a checkpoint that says what the weights and moments beside it are.
[<RequireQualifiedAccess>]
module internal TrainingState =
    /// Its name in a checkpoint's folder.
    let file = "training_state.json"

    // The first has no guard, threads and checksums.
    let private version, first = 2, 1

    /// What the state belongs to: a model that computes otherwise is not the one that the optimiser saw.
    let private sealedFiles = [ "config.json"; "model.safetensors"; Moments.file ]

    let checksum (path: string) : string =
        use stream = File.OpenRead path
        SHA256.HashData stream |> Convert.ToHexStringLower

    /// Of the files in a checkpoint's folder.
    let checksums (folder: string) : Map<string, string> =
        Map [ for name in sealedFiles -> name, checksum (Path.Combine(folder, name)) ]

    /// Files in a checkpoint's folder that are not those which were written with its state.
    let sealFaults (folder: string) (stored: StoredState) : LayerSkipError list = [
        for name, expected in Map.toList stored.Checksums do
            let path = Path.Combine(folder, name)

            if not (File.Exists path) then
                LayerSkipError.NotFound(path, "a checkpoint of training has one")
            elif checksum path <> expected then
                LayerSkipError.BadFile(path, "is not what training wrote there: its checksum is another")
    ]

    let guardFields: JsonField<LossGuard> list = [
        JsonField.whole "seen" _.Seen (fun x it -> { it with Seen = x })
        JsonField.real "mean" _.Mean (fun x it -> { it with Mean = x })
        JsonField.real "variance" _.Variance (fun x it -> { it with Variance = x })
        JsonField.whole "in_a_row" _.InARow (fun x it -> { it with InARow = x })
        JsonField.reals "waiting" _.Waiting (fun x it -> { it with Waiting = x })
    ]

    let private checksumFields: JsonField<Map<string, string>> list = [
        for name in sealedFiles ->
            JsonField.text name (Map.tryFind name >> Option.defaultValue "") (Map.add name)
    ]

    /// As a version has them.
    let private fields (found: int) : JsonField<StoredState> list =
        let sinceSecond field = if found = first then JsonField.optional field else field

        [
            JsonField.whole "version" (fun _ -> version) (fun _ it -> it)
            JsonField.whole "step" _.State.Step (fun x it -> { it with State.Step = x })
            JsonField.whole "ranks" _.State.Ranks (fun x it -> { it with State.Ranks = x })
            JsonField.whole "threads" _.State.Threads (fun x it -> { it with State.Threads = x })
            |> sinceSecond
            JsonField.wholes "updates" _.Updates (fun x it -> { it with Updates = x })
            JsonField.inside "guard" guardFields _.Guard (fun x it -> { it with Guard = x })
            |> sinceSecond
            JsonField.inside "checksums" checksumFields _.Checksums (fun x it -> { it with Checksums = x })
            |> sinceSecond
            TrainingFields.inside "options" _.State.Options (fun x it -> { it with State.Options = x })
        ]

    /// As the newest version has it, JSON in UTF-8.
    let bytes (stored: StoredState) : byte[] =
        Json.write (fun json -> JsonField.write (fields version) json stored)

    let private nothing: StoredState = {
        State = { Options = TrainingFields.nothing; Step = 0; Ranks = 1; Threads = 0 }
        Updates = []
        Guard = LossGuard.start
        Checksums = Map.empty
    }

    /// Reads the state in a checkpoint's folder.
    let read (folder: string) : Result<StoredState, LayerSkipError list> =
        let path = Path.Combine(folder, file)

        Json.load path "a checkpoint of training has one" (fun root ->
            let json = JsonReader(path, root)

            match json.Int("version", 0) with
            | found when found < first || found > version ->
                Check.bad path $"has version {found}; this program reads {first} to {version}"
            | found ->
                let stored = JsonField.read (fields found) json nothing
                Check.all json.Faults stored)
