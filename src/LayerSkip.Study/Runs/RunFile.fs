namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json

/// What a run computes, which all of its shards have in common but for `Shard`.
type RunHeader = {
    /// "sweep", "eval".
    Kind: string
    /// One JSON object, on one line: whatever decides what the cells hold. Two runs belong together where these are equal.
    Config: string
    /// Of the whole run, of which a shard computes a part.
    Cells: int
    Shard: Shard
}

/// What was computed of a cell, counted from 0: one JSON object, on one line.
type RunCell = { Cell: int; Json: string }

/// A run's results: JSON lines, the first of which says what is computed, each other one a cell. A cell that has its line is
/// done; what a kill cut off is computed again.
[<RequireQualifiedAccess>]
module RunFile =
    let internal line (header: RunHeader) : string =
        JsonWrite.line (fun json ->
            json.WriteString("kind", header.Kind)
            json.WriteString("shard", string header.Shard)
            json.WriteNumber("cells", header.Cells)
            json.WritePropertyName "config"
            json.WriteRawValue header.Config)

    /// A cell that is done, whose object holds these fields beside "cell".
    let cell (number: int) (fields: Utf8JsonWriter -> unit) : RunCell = {
        Cell = number
        Json =
            JsonWrite.line (fun json ->
                json.WriteNumber("cell", number)
                fields json)
    }

    let private notARun path = Check.bad path "not a run's file (sweep, eval); name one that a run wrote"

    let private parse (path: string) (number: int) (text: string) (read: JsonElement -> 'T option) =
        match Json.parse (Encoding.UTF8.GetBytes text) with
        | Error _ -> Check.bad path $"line {number} is no JSON; the file is damaged"
        | Ok document ->
            use document = document

            match document.RootElement.ValueKind with
            | JsonValueKind.Object ->
                match read document.RootElement with
                | Some value -> Ok value
                | None -> Check.bad path $"line {number} is none that a run writes; the file is damaged"
            | _ -> Check.bad path $"line {number} is no JSON object; the file is damaged"

    let private number (name: string) (root: JsonElement) =
        match root.TryGetProperty name with
        | true, value when value.ValueKind = JsonValueKind.Number && fst (value.TryGetInt32()) ->
            Some(value.GetInt32())
        | _ -> None

    let private text (name: string) (root: JsonElement) =
        match root.TryGetProperty name with
        | true, value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
        | _ -> None

    let private headerOf (root: JsonElement) : RunHeader option =
        let shard = text "shard" root |> Option.bind (Shard.tryParse >> Result.toOption)

        match text "kind" root, shard, number "cells" root, root.TryGetProperty "config" with
        | Some kind, Some shard, Some cells, (true, config) when config.ValueKind = JsonValueKind.Object ->
            Some { Kind = kind; Config = config.GetRawText(); Cells = cells; Shard = shard }
        | _ -> None

    let private cellOf (header: RunHeader) (line: string) (root: JsonElement) : RunCell option =
        number "cell" root
        |> Option.filter (fun cell -> 0 <= cell && cell < header.Cells && Shard.owns cell header.Shard)
        |> Option.map (fun cell -> { Cell = cell; Json = line })

    /// The whole lines of a file's text, without what a kill left of the last.
    let internal wholeLines (text: string) : string[] =
        match text.LastIndexOf '\n' with
        | -1 -> [||]
        | last -> text[.. last - 1].Split '\n'

    /// The header and the cells of what a file holds; a cell that stands twice counts once.
    let internal ofLines
        (path: string)
        (lines: string[])
        : Result<RunHeader * RunCell list, LayerSkipError list> =
        match Array.toList lines with
        | [] -> notARun path
        | first :: rest ->
            match parse path 1 first headerOf with
            | Error _ -> notARun path
            | Ok header ->
                rest
                |> List.mapi (fun index line -> parse path (index + 2) line (cellOf header line))
                |> Check.list
                |> Result.map (fun cells -> header, cells |> List.distinctBy _.Cell |> List.sortBy _.Cell)

    /// What a file holds, in the order of the cells.
    let read (path: string) : Result<RunHeader * RunCell list, LayerSkipError list> =
        SourceFile.readAll path "name the file that a run wrote"
        |> Result.bind (fun bytes -> ofLines path (wholeLines (Encoding.UTF8.GetString bytes)))

    /// The first of the settings in which two runs differ.
    let internal difference (a: RunHeader) (b: RunHeader) : string option =
        let settings (header: RunHeader) =
            use document = JsonDocument.Parse header.Config

            [
                "kind", $"\"{header.Kind}\""
                for setting in document.RootElement.EnumerateObject() do
                    setting.Name, setting.Value.GetRawText()
                "cells", string header.Cells
                "shards", string header.Shard.Count
            ]

        let theirs = Map.ofList (settings b)
        let ours = settings a
        let short (value: string option) = value |> Option.defaultValue "absent" |> Printable.cut 80

        ours
        |> List.tryPick (fun (name, value) ->
            match Map.tryFind name theirs with
            | Some other when other = value -> None
            | other -> Some $"{name} is {short (Some value)} and not {short other}")
        |> Option.orElse (
            theirs
            |> Map.toList
            |> List.tryFind (fun (name, _) -> not (List.exists (fst >> (=) name) ours))
            |> Option.map (fun (name, value) -> $"{name} is absent and not {short (Some value)}")
        )

    /// The shards of one run as the whole run. Errors: files of different runs, a shard that is missing or there twice, cells
    /// that a shard has not come to yet.
    let merge (paths: string list) : Result<RunHeader * RunCell list, LayerSkipError list> =
        paths
        |> List.map (fun path -> read path |> Result.map (fun (header, cells) -> path, header, cells))
        |> Check.list
        |> Result.bind (fun parts ->
            match parts with
            | [] -> Check.bad "" "there is no file to merge"
            | (firstPath, first, _) :: rest ->
                let foreign = [
                    for path, header, _ in rest do
                        for what in Option.toList (difference header first) do
                            LayerSkipError.BadFile(path, $"is of another run than {firstPath}: {what}")
                ]

                // Of one run alone can it be said what it lacks.
                let lacking () = [
                    for index, same in parts |> List.groupBy (fun (_, header, _) -> header.Shard.Index) do
                        match same with
                        | (a, _, _) :: (b, _, _) :: _ ->
                            LayerSkipError.BadFile(b, $"is shard {index}, which {a} is too; give each once")
                        | _ -> ()

                    let there = parts |> List.map (fun (_, header, _) -> header.Shard.Index)

                    for missing in List.except there [ 1 .. first.Shard.Count ] do
                        LayerSkipError.BadFile(
                            firstPath,
                            $"belongs to a run whose shard {missing}/{first.Shard.Count} is not given; add its file"
                        )

                    for path, header, cells in parts do
                        match (Shard.cells header.Cells header.Shard).Length - cells.Length with
                        | 0 -> ()
                        | left ->
                            LayerSkipError.BadFile(
                                path,
                                $"is not finished: {left} of its cells are to come; run its shard again to go on"
                            )
                ]

                let faults = if foreign.IsEmpty then lacking () else foreign
                let cells = parts |> List.collect (fun (_, _, cells) -> cells) |> List.sortBy _.Cell
                Check.all faults ({ first with Shard = Shard.whole }, cells))

    /// Writes a whole run, whole or not at all.
    let write (path: string) (header: RunHeader) (cells: RunCell list) : Result<unit, LayerSkipError list> =
        let lines = line header :: List.map _.Json cells
        AtomicFile.writeBytes path (Encoding.UTF8.GetBytes(String.concat "\n" lines + "\n"))

/// A run's file that is being written, by one process at a time: a line reaches the disk before the next cell begins.
[<Sealed>]
type RunWriter private (path: string, stream: FileStream, header: RunHeader, done': RunCell list) =
    // Linux's EAGAIN, and Windows' sharing violation.
    static let taken = [ 11; 0x80070020 ]

    let mutable cells = done'

    let append (line: string) =
        stream.Write(Encoding.UTF8.GetBytes(line + "\n"))
        stream.Flush true

    static let resume path (stream: FileStream) header =
        let bytes = Array.zeroCreate<byte>(Checked.int stream.Length)
        stream.ReadExactly bytes
        let whole = Array.LastIndexOf(bytes, byte '\n') + 1

        // A kill within the first line, or nothing yet.
        if whole = 0 && not (Array.contains 0uy bytes) && (bytes.Length = 0 || bytes[0] = byte '{') then
            stream.SetLength 0L
            let writer = new RunWriter(path, stream, header, [])
            writer.Begin()
            Ok writer
        else
            RunFile.ofLines path (RunFile.wholeLines (Encoding.UTF8.GetString bytes))
            |> Result.bind (fun (there, cells) ->
                match RunFile.difference there header with
                | Some what ->
                    Check.bad path $"holds another run, whose {what}; name another file, or delete this one"
                | None when there.Shard <> header.Shard ->
                    Check.bad path $"holds shard {there.Shard} and not {header.Shard}; name another file"
                | None ->
                    stream.SetLength(int64 whole)
                    stream.Seek(0L, SeekOrigin.End) |> ignore
                    Ok(new RunWriter(path, stream, header, cells)))
            |> Check.orDispose stream

    /// Starts a run's file, or goes on with one of the same run. Errors: a file of another run or shard, one that another
    /// process writes, a path that cannot be written.
    static member Open(path: string, header: RunHeader) : Result<RunWriter, LayerSkipError list> =
        let explain (e: exn) =
            match e with
            | :? IOException as e when List.contains e.HResult taken ->
                Some [
                    LayerSkipError.BadFile(
                        path,
                        "another process is writing this run; let it end, or name another file"
                    )
                ]
            | e -> WriteFault.ofOpening path e

        WriteFault.guard explain (fun () ->
            let stream = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None)
            resume path stream header)

    member private _.Begin() = append (RunFile.line header)

    /// The cells that are done.
    member _.Cells: RunCell list = cells |> List.sortBy _.Cell

    /// The cells that are this shard's and not done, in order.
    member _.Left: int list =
        let there = cells |> List.map _.Cell |> Set.ofList

        Shard.cells header.Cells header.Shard
        |> List.filter (fun cell -> not (there.Contains cell))

    /// Adds a cell that is done; `fields` writes what its object holds beside "cell".
    member _.Add(cell: int, fields: Utf8JsonWriter -> unit) : Result<unit, LayerSkipError list> =
        let added = RunFile.cell cell fields

        WriteFault.guard (WriteFault.ofWriting path) (fun () ->
            append added.Json
            cells <- added :: cells
            Ok())

    interface IDisposable with
        member _.Dispose() = stream.Dispose()

[<RequireQualifiedAccess>]
module Run =
    /// The shard's cells, in a file that goes on where it ended, or in memory alone. `compute` gets those that are left, and adds
    /// each: its number, and what its object holds beside it. Errors: what `RunWriter` finds, and `compute`'s own.
    let cells
        (output: string option)
        (header: RunHeader)
        (compute:
            int list
                -> (int * (Utf8JsonWriter -> unit) -> Result<unit, LayerSkipError list>)
                -> Result<unit, LayerSkipError list>)
        : Result<RunCell list, LayerSkipError list> =
        match output with
        | Some path ->
            RunWriter.Open(path, header)
            |> Result.bind (fun writer ->
                use writer = writer
                compute writer.Left writer.Add |> Result.map (fun () -> writer.Cells))
        | None ->
            let found = ResizeArray<RunCell>()
            let add (number, fields) = Ok(found.Add(RunFile.cell number fields))

            compute (Shard.cells header.Cells header.Shard) add
            |> Result.map (fun () -> List.ofSeq found)
