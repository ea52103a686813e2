// Builds the library when its sources are newer than its DLLs. The scripts and notebooks load this before they #r them.
module Build

open System
open System.Diagnostics
open System.IO
open System.Xml.Linq

let private root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let private library = Path.Combine(root, "src", "LayerSkip.Study", "LayerSkip.Study.fsproj")
let private built = Path.Combine(Path.GetDirectoryName library, "bin", "Release", "net10.0")

/// Starts dotnet. With `quiet` its output goes nowhere unless it fails, and then to standard error.
let private dotnet quiet (arguments: string seq) =
    let start = ProcessStartInfo("dotnet", arguments, RedirectStandardOutput = quiet)
    use running = Process.Start start
    let output = if quiet then running.StandardOutput.ReadToEnd() else ""
    running.WaitForExit()

    if running.ExitCode <> 0 then
        eprintf "%s" output

    running.ExitCode

/// A project and those that it refers to, each once.
let rec private projects (project: string) : string list =
    let referred (reference: XElement) =
        let path = reference.Attribute(XName.Get "Include").Value.Replace('\\', '/')
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName project, path))

    XDocument.Load(project).Descendants(XName.Get "ProjectReference")
    |> List.ofSeq
    |> List.collect (referred >> projects)
    |> fun others -> List.distinct (project :: others)

/// What is compiled of a folder, at any depth; what a build puts there is not.
let rec private sources (folder: string) : string list = [
    for pattern in [ "*.fs"; "*.fsi"; "*.cs"; "*.fsproj"; "*.csproj" ] do
        yield! Directory.GetFiles(folder, pattern)

    for inner in Directory.GetDirectories folder do
        if not (List.contains (Path.GetFileName inner) [ "bin"; "obj" ]) then
            yield! sources inner
]

/// Whether a project that the library is made of has a source, or all have a setting, that is newer than its DLL.
let isStale () : bool =
    let settings =
        [ "paket.lock"; "Directory.Build.props"; "src/Directory.Build.props" ]
        |> List.map (fun name -> Path.Combine(root, name))

    let isNewer (dll: string) source = File.GetLastWriteTimeUtc(source: string) > File.GetLastWriteTimeUtc dll

    let isOld (project: string) =
        // Beside the library's own: that one is not built again for what it only refers to.
        let dll = Path.Combine(built, Path.GetFileNameWithoutExtension project + ".dll")
        let read = sources (Path.GetDirectoryName project) @ (if project = library then settings else [])
        not (File.Exists dll) || List.exists (isNewer dll) read

    projects library |> List.exists isOld

/// Builds if need be: dotnet's exit code.
let ensure () : int =
    if isStale () then
        eprintfn "building the library (once) ..."
        dotnet true [ "build"; library; "-c"; "Release"; "-v"; "q"; "--nologo" ]
    else
        0

/// Builds if need be, then runs `script` again with READY defined, its own arguments and its own exit code.
let runReady (script: string) (arguments: string[]) : int =
    match ensure () with
    | 0 ->
        dotnet false [
            "fsi"
            "--define:READY"
            "--quiet"
            "--optimize+"
            script
            "--"
            yield! arguments
        ]
    | failed -> failed
