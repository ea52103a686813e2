// dotnet fsi notebooks/build.fsx             runs each literate NN-name.fsx here and writes NN-name.ipynb with its outputs
// dotnet fsi notebooks/build.fsx --check     runs them and writes nothing; exit code 1 where an .ipynb differs by more than outputs.fsx
//                                            allows: processors may differ in a number's last digit
// In both, exit code 1 where a cell fails. `dotnet fsi notebooks/NN-name.fsx` runs one as a plain script.
#load "../scripts/build.fsx"
#load "outputs.fsx"

open System
open System.Diagnostics
open System.IO
open System.Text
open System.Text.Encodings.Web
open System.Text.Json
open System.Text.RegularExpressions
open Outputs

type Cell =
    | Markdown of text: string
    | Code of text: string * firstLine: int

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))

/// Lines between `(**` and `*)` are Markdown, all others code; blank lines around a cell are no part of it.
let cells (lines: string[]) : Cell list =
    let ended isMarkdown (held: (int * string) list) =
        let blank (_, line) = String.IsNullOrWhiteSpace line
        let held = held |> List.skipWhile blank |> List.rev |> List.skipWhile blank
        let text = held |> List.map snd |> String.concat "\n"

        match held with
        | [] -> []
        | _ when isMarkdown -> [ Markdown text ]
        | (first, _) :: _ -> [ Code(text, first) ]

    let step (made, isMarkdown, held) (number, line: string) =
        match line.Trim() with
        | "(**" when not isMarkdown -> made @ ended false held, true, []
        | "*)" when isMarkdown -> made @ ended true held, false, []
        | _ -> made, isMarkdown, (number, line) :: held

    let made, isMarkdown, held =
        lines |> Array.mapi (fun i line -> i + 1, line) |> Array.fold step ([], false, [])

    made @ ended isMarkdown held

/// Runs dotnet at the root: exit code, standard output, standard error.
let dotnet (arguments: string list) =
    let start =
        ProcessStartInfo(
            "dotnet",
            arguments,
            WorkingDirectory = root,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8
        )
    // What is stored is about the model that everyone has.
    start.Environment.Remove "LAYERSKIP_NOTEBOOK_MODEL" |> ignore
    start.Environment["LAYERSKIP_NOTEBOOK_BUILD"] <- "1"
    use running = Process.Start start
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()
    running.WaitForExit()
    running.ExitCode, output.Result.ReplaceLineEndings "\n", errors.Result

/// Comes before the output of each code cell; U+241E, the sign for a record separator.
let mark = "␞"

/// Comes before and after each picture: what notebook.fsx writes.
let pictureMark = "␟"

/// What a cell gave, from what its process wrote.
let outputsOf (written: string) : Output list = [
    for place, part in Array.indexed (written.Split pictureMark) do
        if place % 2 = 1 then
            Output.Drawn part
        elif part <> "" then
            Output.Printed part
]

/// Runs the code cells in one process: what each gave, or which failed and why.
let run (source: string) (code: (string * int) list) : Result<Output list list, string> =
    let shown, name = Path.GetRelativePath(root, source), Path.GetFileNameWithoutExtension source
    let script = Path.Combine(Path.GetDirectoryName source, $".{name}.cells.fsx")

    // A type error is found before any cell runs, and says its line; an exception is of the last cell that ran.
    let failing (outputs: string list) (errors: string) =
        match Regex.Match(errors, @"\((\d+),\d+\): error") with
        | found when found.Success ->
            code |> List.findIndexBack (fun (_, line) -> line <= int found.Groups[1].Value)
        | _ -> max 0 (outputs.Length - 1)

    let text =
        code
        |> List.map (fun (text, line) -> $"System.Console.Write \"{mark}\"\n# {line} \"{shown}\"\n{text}\n")
        |> String.concat "\n"

    try
        File.WriteAllText(script, text)
        let exitCode, output, errors = dotnet [ "fsi"; "--quiet"; "--nologo"; script ]
        let outputs = output.Split mark |> List.ofArray |> List.tail

        if exitCode = 0 && outputs.Length = code.Length then
            Ok(List.map outputsOf outputs)
        else
            let cell = failing outputs errors
            let printed = List.tryLast outputs |> Option.defaultValue output
            Error $"code cell {cell + 1} (line {snd code[cell]}) failed\n{printed}{errors.Trim()}"
    finally
        File.Delete script

/// The notebook's JSON, in the layout that Jupyter itself writes.
let notebook (cells: Cell list) (outputs: Output list list) : string =
    use stream = new MemoryStream()
    let encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping

    let writer =
        new Utf8JsonWriter(stream, JsonWriterOptions(Indented = true, IndentSize = 1, Encoder = encoder))

    let object (fields: unit -> unit) =
        writer.WriteStartObject()
        fields ()
        writer.WriteEndObject()

    let field (name: string) (write: unit -> unit) =
        writer.WritePropertyName name
        write ()

    let text (name: string) (value: string) = writer.WriteString(name, value)

    let lines (name: string) (value: string) =
        writer.WriteStartArray name
        let parts = value.Split '\n'

        for i, part in Array.indexed parts do
            if i < parts.Length - 1 then
                writer.WriteStringValue(part + "\n")
            elif part <> "" then
                writer.WriteStringValue part

        writer.WriteEndArray()

    let output (output: Output) =
        object (fun () ->
            match output with
            | Output.Printed printed ->
                text "name" "stdout"
                text "output_type" "stream"
                lines "text" printed
            | Output.Drawn svg ->
                field "data" (fun () -> object (fun () -> lines "image/svg+xml" svg))
                field "metadata" (fun () -> object ignore)
                text "output_type" "display_data")

    let write (remaining: Output list list, count) (index, cell) =
        writer.WriteStartObject()

        let next =
            match cell with
            | Markdown source ->
                text "cell_type" "markdown"
                text "id" $"cell-{index + 1:D2}"
                field "metadata" (fun () -> object ignore)
                lines "source" source
                remaining, count
            | Code(source, _) ->
                text "cell_type" "code"
                writer.WriteNumber("execution_count", int count)
                text "id" $"cell-{index + 1:D2}"
                field "metadata" (fun () -> object ignore)
                writer.WriteStartArray "outputs"

                List.iter output remaining.Head
                writer.WriteEndArray()
                lines "source" source
                remaining.Tail, count + 1

        writer.WriteEndObject()
        next

    object (fun () ->
        writer.WriteStartArray "cells"
        cells |> List.indexed |> List.fold write (outputs, 1) |> ignore
        writer.WriteEndArray()

        field "metadata" (fun () ->
            object (fun () ->
                field "kernelspec" (fun () ->
                    object (fun () ->
                        text "display_name" ".NET (F#)"
                        text "language" "F#"
                        text "name" ".net-fsharp"))

                field "language_info" (fun () ->
                    object (fun () ->
                        text "file_extension" ".fs"
                        text "mimetype" "text/x-fsharp"
                        text "name" "F#"))))

        writer.WriteNumber("nbformat", 4)
        writer.WriteNumber("nbformat_minor", 5))

    writer.Dispose()
    Encoding.UTF8.GetString(stream.ToArray()) + "\n"

/// Whether a notebook holds these cells to the letter, and outputs that are the same.
let isCurrent (target: string) (cells: Cell list) (outputs: Output list list) : bool =
    File.Exists target
    && (let kept = read target |> List.map _.Outputs
        kept.Length = outputs.Length
        && List.forall2 sameAll kept outputs
        && File.ReadAllText target = notebook cells kept)

/// Whether all is well with one notebook.
let make (checking: bool) (source: string) : bool =
    let target = Path.ChangeExtension(source, ".ipynb")
    let short = Path.GetRelativePath(root, target)
    let cells = cells (File.ReadAllLines source)

    let code =
        cells
        |> List.choose (function
            | Code(text, line) -> Some(text, line)
            | Markdown _ -> None)

    match run source code with
    | Error fault ->
        eprintfn $"{Path.GetRelativePath(root, source)}: {fault}"
        false
    | Ok outputs ->
        let current = isCurrent target cells outputs

        if checking && not current then
            eprintfn $"{short}: differs from what its .fsx makes; run dotnet fsi notebooks/build.fsx"
        elif not current then
            File.WriteAllText(target, notebook cells outputs)

        let state =
            if current then "up to date"
            elif checking then "stale"
            else "written"
        eprintfn $"{short}: {code.Length} code cells ran, {state}"
        current || not checking

let arguments = fsi.CommandLineArgs |> List.ofArray |> List.tail

match List.except [ "--check" ] arguments with
| [] -> ()
| unknown :: _ ->
    eprintfn $"{unknown}: unknown option; the only one is --check"
    exit 2

match Build.ensure () with
| 0 -> ()
| failed -> exit failed

let sources = Directory.GetFiles(__SOURCE_DIRECTORY__, "??-*.fsx") |> Array.sort
let results = sources |> Array.map (make (List.contains "--check" arguments))
exit (if Array.forall id results then 0 else 1)
