namespace LayerSkip.Cli

open System
open System.IO
open System.Text
open LayerSkip

/// The file that `--output`, or another option, names, found unwritable before any work is done; where none is asked for, writing does nothing.
[<Sealed>]
type OutputFile private (file: AtomicFile option) =
    /// `reads`: the files and folders that the command reads, in whose place nothing is written. `option` names the path in
    /// messages; without it that is --output.
    static member Open(path: string option, reads: string list, ?option: string) : OutputFile =
        let option = defaultArg option "output"

        let real (path: string) =
            let full = Path.GetFullPath path |> Path.TrimEndingDirectorySeparator
            PathKind.resolve full |> Option.defaultValue full

        /// Whether a model's folder is read for such a file.
        let isOfModel (file: string) =
            File.Exists file
            && (Path.GetFileName file = "merges.txt"
                || [ ".json"; ".safetensors"; ".model"; ".gguf"; ".jinja" ]
                   |> List.contains (Path.GetExtension file))

        let isRead (path: string) =
            try
                let target = real path

                reads
                |> List.filter (String.IsNullOrEmpty >> not)
                |> List.exists (fun read ->
                    let read = real read
                    List.contains target (GgufParts.all read)
                    || isOfModel target && Path.GetDirectoryName target = read)
            with
            // A path that leads nowhere is told of by whoever opens it.
            | :? IOException
            | :? UnauthorizedAccessException -> false

        match path with
        | Some "" -> raise (UsageException $"--{option} is empty; name the file to write")
        | Some path when isRead path ->
            raise (UsageException $"--{option} is {path}, which this command reads; name another file")
        | path ->
            // The library's words for it; `Faults` takes them for --output.
            let advice (error: LayerSkipError) =
                match error with
                | LayerSkipError.BadFile(path, fault) ->
                    LayerSkipError.BadFile(
                        path,
                        fault.Replace("name another place", $"name another with --{option}")
                    )
                | error -> error

            let openFile = AtomicFile.Open >> Result.mapError (List.map advice) >> Check.getOrRaise
            new OutputFile(Option.map openFile path)

    /// The page that `--html` names, which is not the file of `--output`.
    static member OpenPage(path: string option, output: string option, reads: string list) : OutputFile =
        match path, output with
        | Some page, Some output when
            page <> "" && output <> "" && Path.GetFullPath page = Path.GetFullPath output
            ->
            raise (UsageException $"--html and --output are both {page}; name two files")
        | _ -> OutputFile.Open(path, reads, "html")

    /// Writes what `make` makes, which is not made where no file is asked for.
    member this.Make(make: unit -> string) : unit =
        if file.IsSome then
            this.Write(make ())

    /// The text and a line's end.
    member _.Write(text: string) : unit =
        let bytes = Encoding.UTF8.GetBytes(text + "\n")

        for file in Option.toList file do
            file.Write(fun stream -> stream.Write bytes) |> Check.getOrRaise

    /// Puts a command's result on standard output, and into the file.
    member this.Tell(terminal: Terminal, text: string) : unit =
        Terminal.result terminal text
        this.Write text

    interface IDisposable with
        member _.Dispose() = file |> Option.iter (fun file -> (file :> IDisposable).Dispose())
