// Builds the library when its sources are newer than its DLL. The scripts load this before they #r it.
open System
open System.Diagnostics
open System.IO

let private root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let private library = Path.Combine(root, "src", "LayerSkip")
let private dll = Path.Combine(library, "bin", "Release", "net10.0", "LayerSkip.dll")

/// Starts dotnet. With `quiet` its output goes nowhere unless it fails, and then to standard error.
let private dotnet quiet (arguments: string seq) =
    let start = ProcessStartInfo("dotnet", arguments, RedirectStandardOutput = quiet)
    use running = Process.Start start
    let output = if quiet then running.StandardOutput.ReadToEnd() else ""
    running.WaitForExit()

    if running.ExitCode <> 0 then
        eprintf "%s" output

    running.ExitCode

let private isStale () =
    let sources = [
        yield! Directory.GetFiles(library, "*.fs*")
        yield! Directory.GetFiles(library + ".Kernels", "*.cs*")
        Path.Combine(root, "paket.lock")
        Path.Combine(root, "Directory.Build.props")
        Path.Combine(root, "src", "Directory.Build.props")
    ]

    not (File.Exists dll)
    || sources
       |> List.exists (fun source -> File.GetLastWriteTimeUtc source > File.GetLastWriteTimeUtc dll)

/// Builds if need be, then runs `script` again with READY defined, its own arguments and its own exit code.
let runReady (script: string) (arguments: string[]) : int =
    let built =
        if isStale () then
            eprintfn "building the library (once) ..."
            dotnet true [ "build"; library; "-c"; "Release"; "-v"; "q"; "--nologo" ]
        else
            0

    if built <> 0 then
        built
    else
        dotnet false [
            "fsi"
            "--define:READY"
            "--quiet"
            "--optimize+"
            script
            "--"
            yield! arguments
        ]
