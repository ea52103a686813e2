namespace LayerSkip

open System
open System.IO
open System.Security.Cryptography
open System.Text.Json

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
    Updates: int[]
    Guard: LossGuard
    /// SHA-256 of the files beside it, by name; None where an earlier version did not write them down.
    Checksums: (string * string) list option
}

/// The file of a checkpoint that says what the weights and moments beside it are.
[<RequireQualifiedAccess>]
module internal TrainingState =
    let file = "training_state.json"

    // The first has no guard, threads and checksums.
    let private version, first = 2, 1

    /// What the state belongs to: a model that computes otherwise is not the one that the optimiser saw.
    let private sealedFiles = [ "config.json"; "model.safetensors"; "optimizer.safetensors" ]

    let private checksum (path: string) : string =
        use stream = File.OpenRead path
        SHA256.HashData stream |> Convert.ToHexStringLower

    /// Of the files in a checkpoint's folder.
    let checksums (folder: string) : (string * string) list = [
        for name in sealedFiles -> name, checksum (Path.Combine(folder, name))
    ]

    /// Files in a checkpoint's folder that are not those which were written with its state.
    let sealFaults (folder: string) (stored: StoredState) : LayerSkipError list = [
        for name, expected in Option.defaultValue [] stored.Checksums do
            let path = Path.Combine(folder, name)

            if not (File.Exists path) then
                LayerSkipError.NotFound(path, "a checkpoint of training has one")
            elif checksum path <> expected then
                LayerSkipError.BadFile(path, "is not what training wrote there: its checksum is another")
    ]

    let private writeGuard (json: Utf8JsonWriter) (guard: LossGuard) =
        json.WriteStartObject "guard"
        json.WriteNumber("seen", guard.Seen)
        json.WriteNumber("mean", guard.Mean)
        json.WriteNumber("variance", guard.Variance)
        json.WriteNumber("in_a_row", guard.InARow)
        json.WriteStartArray "waiting"
        List.iter (fun (loss: float) -> json.WriteNumberValue loss) guard.Waiting
        json.WriteEndArray()
        json.WriteEndObject()

    let private readGuard (json: JsonReader) : LossGuard = {
        Seen = json.Int("seen", 0)
        Mean = json.Float("mean", 0.0)
        Variance = json.Float("variance", 0.0)
        InARow = json.Int("in_a_row", 0)
        Waiting = json.Floats "waiting"
    }

    let bytes (stored: StoredState) : byte[] =
        HuggingFaceConfig.json (fun json ->
            json.WriteNumber("version", version)
            json.WriteNumber("step", stored.State.Step)
            json.WriteNumber("ranks", stored.State.Ranks)
            json.WriteNumber("threads", stored.State.Threads)
            json.WriteStartArray "updates"
            Array.iter (fun (count: int) -> json.WriteNumberValue count) stored.Updates
            json.WriteEndArray()
            writeGuard json stored.Guard
            json.WriteStartObject "checksums"

            for name, value in Option.defaultValue [] stored.Checksums do
                json.WriteString(name, value)

            json.WriteEndObject()
            json.WriteStartObject "options"
            TrainingOptions.write json stored.State.Options
            json.WriteEndObject())

    let private ofJson (json: JsonReader) (found: int) (options: JsonReader) : StoredState =
        let checksums (json: JsonReader) = [
            for name in sealedFiles do
                match json.TryString name with
                | Some value -> name, value
                | None -> json.Fault $"has no checksum of {name}"
        ]

        let inside (name: string) (read: JsonReader -> 'T) (fallback: 'T) =
            match json.Object name with
            | Some inner -> read inner
            | None when found = first -> fallback
            | None ->
                json.Fault $"has no \"{name}\""
                fallback

        {
            State = {
                Options = TrainingOptions.ofJson options
                Step = json.Int("step", 0)
                Ranks = json.Int("ranks", 1)
                Threads = json.Int("threads", 0)
            }
            Updates = json.Ids "updates" |> Option.defaultValue [||]
            Guard = inside "guard" readGuard LossGuard.start
            Checksums = inside "checksums" (checksums >> Some) None
        }

    /// Reads the state in a checkpoint's folder.
    let read (folder: string) : Result<StoredState, LayerSkipError list> =
        let path = Path.Combine(folder, file)

        match Json.read path "a checkpoint of training has one" with
        | Error faults -> Error faults
        | Ok document ->
            use document = document
            let json = JsonReader(path, document.RootElement)

            match json.Int("version", 0), json.Object "options" with
            | found, _ when found < first || found > version ->
                Error [
                    LayerSkipError.BadFile(
                        path,
                        $"has version {found}; this program reads {first} to {version}"
                    )
                ]
            | _, None -> Error [ LayerSkipError.BadFile(path, "has no \"options\"; take another checkpoint") ]
            | found, Some options ->
                let stored = ofJson json found options
                Check.all json.Faults stored
