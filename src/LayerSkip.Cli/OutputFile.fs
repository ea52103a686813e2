namespace LayerSkip.Cli

open System
open System.Text
open LayerSkip

/// The file that `--output` names, found unwritable before any work is done; where none is asked for, writing does nothing.
[<Sealed>]
type OutputFile private (file: AtomicFile option) =
    static member Open(path: string option) : OutputFile =
        match path with
        | Some "" -> raise (UsageException "--output is empty; name the file to write")
        | path -> new OutputFile(path |> Option.map (AtomicFile.Open >> Check.getOrRaise))

    /// The text and a line's end.
    member _.Write(text: string) : unit =
        let bytes = Encoding.UTF8.GetBytes(text + "\n")

        for file in Option.toList file do
            file.Write(fun stream -> stream.Write bytes) |> Check.getOrRaise

    interface IDisposable with
        member _.Dispose() = file |> Option.iter (fun file -> (file :> IDisposable).Dispose())
