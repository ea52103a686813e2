// dotnet fsi tests/packages.fsx
// Packs the project, and does with the packages what those do who install them: empty projects, an empty home, an empty cache. The only
// source beside our packages is the folder of packages that this machine downloaded, as they came; nothing is fetched.
// The closing line is "N passed, N failed, N skipped"; exit code 1 where one failed.
open System
open System.Diagnostics
open System.IO
open System.IO.Compression
open System.Reflection.Metadata
open System.Reflection.PortableExecutable
open System.Text
open System.Xml.Linq

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let scratch = Directory.CreateTempSubdirectory("layerskip-packages-").FullName
let inScratch (parts: string list) = Path.Combine(Array.ofList (scratch :: parts))
let packed = inScratch [ "packed" ]

let downloaded =
    match Environment.GetEnvironmentVariable "NUGET_PACKAGES" with
    | null
    | "" ->
        Path.Combine(Environment.GetFolderPath Environment.SpecialFolder.UserProfile, ".nuget", "packages")
    | folder -> folder

/// Runs a program: its standard output. Fails with all that it wrote where its exit code is not 0.
let run
    (folder: string)
    (environment: (string * string) list)
    (program: string)
    (arguments: string list)
    : string =
    let start = ProcessStartInfo(program, arguments, WorkingDirectory = folder)
    start.RedirectStandardOutput <- true
    start.RedirectStandardError <- true

    for name in [ "NUGET_PACKAGES"; "NUGET_FEED"; "LAYERSKIP_LIBTORCH"; "LD_LIBRARY_PATH" ] do
        start.Environment.Remove name |> ignore

    for name, value in environment do
        start.Environment[name] <- value

    use running = Process.Start start
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()
    running.WaitForExit()

    if running.ExitCode <> 0 then
        failwith
            $"""{program} {String.concat " " arguments}: exit code {running.ExitCode}
{output.Result}{errors.Result}"""

    output.Result

/// The user who installs: a home with nothing in it, and a package cache that starts empty.
let user = [
    "HOME", inScratch [ "home" ]
    "DOTNET_CLI_HOME", inScratch [ "home" ]
    "NUGET_PACKAGES", inScratch [ "cache" ]
    // MSBuild takes its properties from here too; half a gigabyte is then there once.
    "CreateHardLinksForCopyLocalIfPossible", "true"
    "CreateHardLinksForPublishFilesIfPossible", "true"
]

/// Another machine's user, who has not even that cache.
let stranger = [ ("HOME", inScratch [ "elsewhere" ]) ]

let check (holds: bool) (fault: string) =
    if not holds then
        failwith fault

let packages = lazy (Directory.GetFiles packed |> Array.sort)
let named (id: string) =
    packages.Value |> Array.find (fun path -> Path.GetFileName(path).StartsWith $"{id}.0")

/// The files of a package that are made here, with their bytes: all but what other packages brought.
let ours (package: string) = [
    use archive = ZipFile.OpenRead package

    for entry in archive.Entries do
        let name = Path.GetFileName entry.FullName
        let isBinary = List.contains (Path.GetExtension name) [ ".dll"; ".so"; ".dylib" ]

        if name.StartsWith "LayerSkip" || not isBinary then
            use bytes = new MemoryStream()
            use stream = entry.Open()
            stream.CopyTo bytes
            entry.FullName, bytes.ToArray()
]

let manifest (package: string) =
    let text = ours package |> List.find (fun (name, _) -> name.EndsWith ".nuspec") |> snd
    XDocument.Load(new MemoryStream(text)).Root

let values (name: string) (manifest: XElement) = [
    for element in manifest.Descendants() do
        if element.Name.LocalName = name then
            element
]

/// The names of the sources in an assembly's symbols, and which of them come with their text.
let sources (symbols: byte[]) = [
    use provider = MetadataReaderProvider.FromPortablePdbStream(new MemoryStream(symbols))
    let reader = provider.GetMetadataReader()
    let embedded = Guid "0E8A571B-6926-466E-B4AD-8AB04611F5FE"

    for handle in reader.Documents do
        let isEmbedded =
            reader.GetCustomDebugInformation(DocumentHandle.op_Implicit handle: EntityHandle)
            |> Seq.exists (fun information ->
                reader.GetGuid(reader.GetCustomDebugInformation(information).Kind) = embedded)

        reader.GetString(reader.GetDocument(handle).Name), isEmbedded
]

/// A block of code in the package's README.
let example (project: string) (language: string) : string =
    let readme = File.ReadAllText(Path.Combine(root, "src", project, "README.md"))
    let after = readme.Split($"```{language}\n") |> Array.item 1
    after.Split("```") |> Array.head

/// An empty project that installs a package and is the README's program.
let project (name: string) (extension: string) (package: string) (program: string) (more: string) : string =
    let folder = Directory.CreateDirectory(inScratch [ name ]).FullName
    File.WriteAllText(Path.Combine(folder, "Program." + extension), program)

    File.WriteAllText(
        Path.Combine(folder, $"App.{extension}proj"),
        $"""<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType>
    <TargetFramework>net10.0</TargetFramework>
    <ImplicitUsings>enable</ImplicitUsings>
    <Nullable>enable</Nullable>
    <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
  </PropertyGroup>
  <ItemGroup>
    {if extension = "fs" then
         "<Compile Include=\"Program.fs\" />"
     else
         ""}
    <PackageReference Include="{package}" Version="0.1.*" />
    {more}
  </ItemGroup>
</Project>
"""
    )

    folder

let dotnet folder arguments = run folder user "dotnet" arguments
let model = Path.Combine(root, "models", "stories-10m")

let command = lazy Path.Combine(root, "src/LayerSkip.Cli/bin/Release/net10.0/LayerSkip.Cli.dll")

/// What the repository's own command writes after "Once upon a time".
let text =
    lazy
        (let options = [ "--model"; model; "--prompt"; "Once upon a time"; "--max-new-tokens"; "64" ]
         (run root [] "dotnet" (command.Value :: "generate" :: options)).Trim())

let writesTheText (output: string) =
    check (output.Trim().StartsWith text.Value) $"it wrote\n{output}\nand not\n{text.Value}"

let libraries = [
    "LayerSkip"
    "LayerSkip.CSharp"
    "LayerSkip.Extensions.AI"
    "LayerSkip.Formats"
    "LayerSkip.Kernels"
    "LayerSkip.Server"
    "LayerSkip.Study"
]

let libtorchIn (folder: string) = Directory.GetFiles(folder, "libtorch_cpu.so", SearchOption.AllDirectories)

let claims: (string * (unit -> unit)) list = [
    "dotnet pack at the root packs our packages and nothing else",
    fun () ->
        run root [] "dotnet" [ "pack"; "--nologo"; "-v"; "q"; "-o"; packed ] |> ignore
        let names = [ for path in packages.Value -> Path.GetFileName(path).Split(".0.")[0] ]
        check (List.sort names = List.sort ("LayerSkip.Cli" :: libraries)) $"packed: %A{names}"

    "every package says what it is, under which licence, and how it is used",
    fun () ->
        for package in packages.Value do
            let files = List.map fst (ours package)
            let manifest = manifest package

            for part in [ "description"; "license"; "readme"; "tags"; "copyright" ] do
                check ((values part manifest).Length = 1) $"{package}: no {part}"

            for file in [ "README.md"; "LICENSE" ] do
                check (List.contains file files) $"{package}: no {file}"

    "packages ask for ranges of versions, and for libtorch",
    fun () ->
        let dependencies id = [
            for dependency in values "dependency" (manifest (named id)) ->
                dependency.Attribute("id").Value, dependency.Attribute("version").Value
        ]

        for id in libraries do
            for needed, version in dependencies id do
                check (not (version.StartsWith '[' && version.EndsWith ']')) $"{id} wants {needed} {version}"

        let needed = List.map fst (dependencies "LayerSkip")
        check (List.contains "libtorch-cpu-linux-x64" needed) $"LayerSkip needs %A{needed}"

    "symbols come with their sources",
    fun () ->
        for id in "LayerSkip.Cli" :: libraries do
            let symbols = ours (named id) |> List.find (fun (name, _) -> name.EndsWith $"/{id}.pdb") |> snd
            // F# has a document "unknown" too.
            let isBare (name: string, isEmbedded) = Path.HasExtension name && not isEmbedded
            let bare = sources symbols |> List.filter isBare
            check bare.IsEmpty $"{id}: without their text: %A{bare}"

    "nothing packed names a folder of the machine that built it",
    fun () ->
        for package in packages.Value do
            for name, bytes in ours package do
                // Symbols store the names of files in parts; their reader joins them.
                let documents =
                    if name.EndsWith ".pdb" then
                        List.map fst (sources bytes)
                    else
                        []
                // Texts of two bytes a character begin at any byte.
                let texts = [
                    Encoding.Latin1.GetString bytes
                    Encoding.Unicode.GetString bytes
                    Encoding.Unicode.GetString(bytes, 1, bytes.Length - 1)
                    yield! documents
                ]

                for folder in [ root; downloaded ] do
                    let named =
                        texts |> List.exists (fun text -> text.Contains(folder, StringComparison.Ordinal))
                    check (not named) $"{package}: {name} names {folder}"

    "LayerSkip.CSharp's README runs in an empty project, and its publish elsewhere",
    fun () ->
        let folder = project "csharp" "cs" "LayerSkip.CSharp" (example "LayerSkip.CSharp" "csharp") ""
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore
        writesTheText (
            run scratch stranger "dotnet" [ Path.Combine(folder, "bin/Debug/net10.0/App.dll"); model ]
        )
        let published = inScratch [ "published" ]
        dotnet folder [ "publish"; "--nologo"; "-v"; "q"; "-o"; published ] |> ignore
        Directory.Delete(folder, true)
        writesTheText (run "/" stranger (Path.Combine(published, "App")) [ model ])

    "LayerSkip.Extensions.AI's README runs in an empty project, and says so of a model that is no chat's",
    fun () ->
        let folder =
            project "chat" "cs" "LayerSkip.Extensions.AI" (example "LayerSkip.Extensions.AI" "csharp") ""
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore

        let told =
            try
                run "/" stranger "dotnet" [ Path.Combine(folder, "bin/Debug/net10.0/App.dll"); model ]
            with e ->
                e.Message

        check (told.Contains "chat template") told

    "LayerSkip's README runs in an empty project",
    fun () ->
        let folder = project "fsharp" "fs" "LayerSkip" (example "LayerSkip" "fsharp") ""
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore
        writesTheText (run "/" stranger "dotnet" [ Path.Combine(folder, "bin/Debug/net10.0/App.dll"); model ])

    "LayerSkip.Study's README runs in an empty project",
    fun () ->
        let folder = project "study" "fs" "LayerSkip.Study" (example "LayerSkip.Study" "fsharp") ""
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore
        let told = run "/" stranger "dotnet" [ Path.Combine(folder, "bin/Debug/net10.0/App.dll"); model ]
        check (told.Trim().EndsWith "violations 0") told

    "LayerSkip.Formats's README runs in an empty project, without libtorch",
    fun () ->
        let file = inScratch [ "stories.gguf" ]
        let options = [ "--model"; model; "--format"; "gguf"; "--output"; file ]
        run root [] "dotnet" (command.Value :: "export" :: options) |> ignore
        let folder = project "formats" "fs" "LayerSkip.Formats" (example "LayerSkip.Formats" "fsharp") ""
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore
        check (Array.isEmpty (libtorchIn folder)) "libtorch came all the same"
        let told = run "/" stranger "dotnet" [ Path.Combine(folder, "bin/Debug/net10.0/App.dll"); file ]
        check (told.StartsWith "24 layers") told

    "a project can leave our libtorch out, and LAYERSKIP_LIBTORCH names another",
    fun () ->
        let without = (example "LayerSkip.CSharp" "xml").Split('\n')[0]
        let folder = project "bare" "cs" "LayerSkip.CSharp" (example "LayerSkip.CSharp" "csharp") without
        dotnet folder [ "build"; "--nologo"; "-v"; "q" ] |> ignore
        check (Array.isEmpty (libtorchIn folder)) "libtorch came all the same"
        let another = libtorchIn (inScratch [ "cache" ]) |> Array.head |> Path.GetDirectoryName

        run "/" (("LAYERSKIP_LIBTORCH", another) :: stranger) "dotnet" [
            Path.Combine(folder, "bin/Debug/net10.0/App.dll")
            model
        ]
        |> writesTheText

    "layerskip installs as a tool, and runs",
    fun () ->
        let tools = inScratch [ "tools" ]
        dotnet scratch [
            "tool"
            "install"
            "LayerSkip.Cli"
            "--tool-path"
            tools
            "--version"
            "0.1.*"
        ]
        |> ignore
        let options = [ "--model"; model; "--prompt"; "Once upon a time"; "--max-new-tokens"; "64" ]
        writesTheText (run "/" stranger (Path.Combine(tools, "layerskip")) ("generate" :: options))
]

let sourcesOfPackages =
    $"""<configuration>
  <packageSources>
    <clear />
    <add key="ours" value="{packed}" />
    <add key="downloaded" value="{downloaded}" />
  </packageSources>
</configuration>
"""

let holds (claim: string, prove: unit -> unit) : bool =
    let started = Stopwatch.StartNew()

    try
        prove ()
        printfn $"passed ({started.Elapsed.TotalSeconds:F0} s)  {claim}"
        true
    with e ->
        printfn $"FAILED  {claim}\n{e.Message}"
        false

let results =
    try
        for folder in [ "packed"; "home"; "elsewhere"; "cache" ] do
            Directory.CreateDirectory(inScratch [ folder ]) |> ignore

        File.WriteAllText(inScratch [ "nuget.config" ], sourcesOfPackages)
        List.map holds claims
    finally
        Directory.Delete(scratch, true)

let failed = results |> List.filter not |> List.length
printfn $"\n{results.Length - failed} passed, {failed} failed, 0 skipped"
exit (min 1 failed)
