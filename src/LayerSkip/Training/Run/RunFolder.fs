namespace LayerSkip

open System
open System.IO
open System.Text.RegularExpressions

/// A run's folder, of which one process at a time may change anything.
[<RequireQualifiedAccess>]
module internal RunFolder =
    /// The ids that are learned.
    let trainFile (output: string) : string = Path.Combine(output, "train.tokens")
    /// The ids that validate; not there where none do.
    let validFile (output: string) : string = Path.Combine(output, "valid.tokens")
    /// How many conversations are among them; not there where none are.
    let conversationsFile (output: string) : string = Path.Combine(output, "conversations.json")
    /// `TrainingLog`'s lines.
    let logFile (output: string) : string = Path.Combine(output, "log.jsonl")
    /// TensorBoard's events.
    let boardFolder (output: string) : string = Path.Combine(output, "tensorboard")

    // Each checkpoint copies its tokenizer from here: the one that a run went on from is removed some time.
    let tokenizerFolder (output: string) : string = Path.Combine(output, "tokenizer")

    // Linux's EAGAIN, and Windows' sharing violation.
    let private taken = [ 11; 0x80070020 ]

    /// Makes the folder and claims it, until the result is disposed or the process ends, however it does: the system
    /// holds the lock, and the file under it stays.
    let private claim (output: string) : Result<IDisposable, LayerSkipError list> =
        try
            Directory.CreateDirectory output |> ignore
            let file = Path.Combine(output, ".lock")
            Ok(new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None))
        with
        | :? IOException as e when List.contains e.HResult taken ->
            Check.bad output "another process is training in this folder; let it end, or name another folder"
        | e when (WriteFault.ofOpening output e).IsSome -> Error (WriteFault.ofOpening output e).Value

    let private isUnfinished (path: string) = Regex.IsMatch(Path.GetFileName path, @"\.[0-9a-f]{8,32}\.tmp$")

    /// Removes what killed processes left unfinished. Only who has claimed the folder may.
    let private clear (output: string) : unit =
        for folder in [ output; tokenizerFolder output ] do
            if Directory.Exists folder then
                for path in Directory.GetFileSystemEntries folder |> Array.filter isUnfinished do
                    if Directory.Exists path then
                        Directory.Delete(path, true)
                    else
                        File.Delete path

    /// Removes what an earlier run, which came to no checkpoint, has told and measured.
    let forget (output: string) : unit =
        File.Delete(logFile output)

        if Directory.Exists(boardFolder output) then
            for events in Directory.GetFiles(boardFolder output, "events.out.tfevents.*") do
                File.Delete events

    let private samePlace (a: string) (b: string) =
        let place (path: string) = PathKind.resolve (Path.GetFullPath path) |> Option.map Path.GetFullPath
        File.Exists a && File.Exists b && place a = place b

    /// Data that the run itself would write over.
    let faultsOf (output: string) (data: string list) : LayerSkipError list = [
        for file in data do
            if List.exists (samePlace file) [ trainFile output; validFile output; logFile output ] then
                let why = "the run would write its own data over this file; move it, or name another folder"
                LayerSkipError.BadFile(file, why)
    ]

    /// What keeps others out, for ranks that write nothing.
    let noClaim = {
        new IDisposable with
            member _.Dispose() = ()
    }

    /// A fault gives the claim back.
    let private orLetGo (claim: IDisposable) (work: unit -> Result<'T, LayerSkipError list>) =
        try
            work () |> Check.orDispose claim
        with _ ->
            claim.Dispose()
            reraise ()

    /// Does what changes the folder on the first rank, which claims it; the others wait for it.
    let claimed
        (output: string)
        (ranks: Ranks)
        (prepare: unit -> Result<unit, LayerSkipError list>)
        (work: IDisposable -> Result<'T, LayerSkipError list>)
        : Result<'T, LayerSkipError list> =
        let prepared =
            if ranks.Rank > 0 then
                Ok noClaim
            else
                claim output
                |> Result.bind (fun claim ->
                    orLetGo claim (fun () ->
                        WriteFault.guard (WriteFault.ofWriting output) (fun () ->
                            clear output
                            prepare () |> Result.map (fun () -> claim))))

        match prepared, Ranks.anyOf (Result.isError prepared) ranks with
        | Ok _, true -> Check.bad output "could not be prepared by the first rank"
        | Error faults, _ -> Error faults
        | Ok claim, false -> orLetGo claim (fun () -> work claim)

    /// Writes into a run's folder while it goes on. A full disk ends the run with a line that says so; it is thrown, as nothing can be
    /// told through the log.
    let writing (output: string) (write: unit -> 'T) : 'T =
        try
            write ()
        with e when (WriteFault.why e).IsSome ->
            raise (LayerSkipException (WriteFault.ofWriting output e).Value)
