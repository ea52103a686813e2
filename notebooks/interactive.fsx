// dotnet fsi notebooks/interactive.fsx     runs the cells of each NN-name.ipynb in dotnet-interactive, the kernel of Jupyter and of
// Polyglot Notebooks, and compares what they print and show with what the notebook holds. Exit code 1 where a cell fails or differs; "skipped"
// where the tool cannot be installed. `dotnet build -c Release` comes first, as the notebook's text says.
#load "outputs.fsx"

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open Outputs

let version = "1.0.712001"

/// Installs the tool into a folder: the command, or why there is none.
let install (folder: string) : Result<string, string> =
    let arguments = [
        "tool"
        "install"
        "Microsoft.dotnet-interactive"
        "--version"
        version
        "--tool-path"
        folder
    ]

    let start =
        ProcessStartInfo("dotnet", arguments, RedirectStandardOutput = true, RedirectStandardError = true)
    use running = Process.Start start
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()
    running.WaitForExit()

    if running.ExitCode = 0 then
        Ok(Path.Combine(folder, "dotnet-interactive"))
    else
        Error((output.Result + errors.Result).Trim().Split('\n') |> Array.last)

/// Starts the tool beside a notebook, as Jupyter does; it reads a command and writes an event a line.
let startKernel (command: string) (notebook: string) : Process =
    let start = ProcessStartInfo(command, [ "stdio" ], WorkingDirectory = Path.GetDirectoryName notebook)
    start.RedirectStandardInput <- true
    start.RedirectStandardOutput <- true
    start.Environment["DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT"] <- "1"
    start.Environment["DOTNET_INTERACTIVE_SKIP_FIRST_TIME_EXPERIENCE"] <- "1"
    // What is stored is about the model that everyone has.
    start.Environment.Remove "LAYERSKIP_NOTEBOOK_MODEL" |> ignore
    Process.Start start

/// Adds to what a cell gave; what is printed in pieces is one output.
let add (given: Output list) (output: Output) : Output list =
    match output, given with
    | Output.Printed more, Output.Printed text :: before -> Output.Printed(text + more) :: before
    | _ -> output :: given

/// Runs one cell: what it gave, or why it failed.
let run (kernel: Process) (index: int) (cell: StoredCell) : Result<Output list, string> =
    let token = $"cell-{index + 1}"
    let command = {| code = cell.Code; targetKernelName = "fsharp" |}
    let line = JsonSerializer.Serialize {| commandType = "SubmitCode"; command = command; token = token |}
    kernel.StandardInput.WriteLine line
    kernel.StandardInput.Flush()

    // The latest output first.
    let rec follow (given: Output list) =
        let fault why = Error(shown (List.rev given) + why)

        match kernel.StandardOutput.ReadLine() with
        | null -> fault "the kernel ended"
        | line when not (line.StartsWith '{') -> follow given
        | line ->
            let happened = JsonNode.Parse line
            let isOurs = not (isNull happened["command"]) && string happened["command"].["token"] = token
            let value () = happened["event"].["formattedValues"].AsArray()[0]

            match string happened["eventType"] with
            | "StandardOutputValueProduced" when isOurs ->
                let text = (string (value ()).["value"]).ReplaceLineEndings "\n"
                follow (add given (Output.Printed text))
            | "DisplayedValueProduced" when isOurs && string (value ()).["mimeType"] = "image/svg+xml" ->
                follow (add given (Output.Drawn(string (value ()).["value"])))
            | "CommandSucceeded" when isOurs -> Ok(List.rev given)
            | "CommandFailed" when isOurs -> fault (string happened["event"].["message"])
            | _ -> follow given

    follow []

/// Whether every cell runs and gives what the notebook holds.
let holds (command: string) (notebook: string) : bool =
    use kernel = startKernel command notebook
    // Against a kernel that hangs.
    use limit =
        new Threading.Timer(
            (fun _ -> kernel.Kill true),
            null,
            TimeSpan.FromMinutes 10.0,
            Threading.Timeout.InfiniteTimeSpan
        )

    let fault (index, cell) =
        match run kernel index cell with
        | Error why -> Some $"cell {index + 1} failed\n{why}"
        | Ok outputs when not (sameAll outputs cell.Outputs) ->
            Some $"cell {index + 1} gave\n{shown outputs}\nand not\n{shown cell.Outputs}"
        | Ok _ -> None

    let cells = read notebook
    let found = cells |> List.indexed |> List.tryPick fault
    kernel.Kill true
    let name = Path.GetFileName notebook

    match found with
    | Some fault -> eprintfn $"{name}: {fault}"
    | None -> eprintfn $"{name}: {cells.Length} code cells ran in dotnet-interactive {version}, all as stored"

    found.IsNone

let folder = Directory.CreateTempSubdirectory("layerskip-interactive-").FullName

let code =
    try
        match install folder with
        | Error why ->
            printfn $"skipped: dotnet-interactive {version} does not install: {why}"
            0
        | Ok command ->
            let notebooks = Directory.GetFiles(__SOURCE_DIRECTORY__, "??-*.ipynb") |> Array.sort
            if notebooks |> Array.map (holds command) |> Array.forall id then
                0
            else
                1
    finally
        Directory.Delete(folder, true)

exit code
