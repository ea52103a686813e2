module LayerSkip.Tests.ArchitectureTests

open System.IO
open System.Reflection.Metadata
open System.Reflection.PortableExecutable
open System.Xml.Linq
open Expecto
open LayerSkip.Tests.Support

/// Each project and its folders, in the order in which they may know each other: nothing knows what stands below it here.
let private house = [
    "LayerSkip.Kernels", []
    "LayerSkip.Formats",
    [
        ""
        "Files"
        "Json"
        "Jinja"
        "Config"
        "Safetensors"
        "Gguf"
        "Tokenizers"
        "Grammar"
        "Chat"
        "Data"
        "Hub"
    ]
    "LayerSkip",
    [
        "Tensors"
        "Model"
        "Decoding"
        "Checkpoints"
        "Serving"
        "Training"
        "Training/Run"
    ]
    "LayerSkip.Study",
    [
        "Exactness"
        "Bench"
        "Layers"
        "Runs"
        "Statistics"
        "Lens"
        "Eval"
        "Replay"
        "Sweep"
        "Plots"
    ]
    "LayerSkip.CSharp", []
    "LayerSkip.Extensions.AI", []
    "LayerSkip.Server", [ "Protocol"; "Serving"; "Endpoints"; "" ]
    "LayerSkip.Cli", [ "Host"; "Options"; "Commands"; "" ]
]

let private folder (project: string) = Path.Combine(root, "src", project)

let private items (kind: string) (project: string) = [
    for path in Directory.GetFiles(folder project, "*.*proj") do
        for item in (XDocument.Load path).Descendants(XName.Get kind) do
            item.Attribute(XName.Get "Include").Value.Replace('\\', '/')
]

let private compiled = items "Compile"

/// The sources of a project as they lie on disk, without what a build makes.
let private sources (project: string) = [
    for path in Directory.GetFiles(folder project, "*", SearchOption.AllDirectories) do
        let name = Path.GetRelativePath(folder project, path).Replace('\\', '/')

        if
            List.contains (Path.GetExtension name) [ ".fs"; ".cs" ]
            && not (name.StartsWith "bin/" || name.StartsWith "obj/")
        then
            name
]

/// The assemblies that a project's own was compiled against and uses.
let private used (project: string) = [
    // The command's folder holds all of them; the facade's and its chat client's are beside it.
    let host =
        if List.contains project [ "LayerSkip.CSharp"; "LayerSkip.Extensions.AI" ] then
            project
        else
            "LayerSkip.Cli"
    let built = Path.Combine(folder host, "bin", "Release", "net10.0", project + ".dll")
    use reader = new PEReader(File.OpenRead built)
    let metadata = reader.GetMetadataReader()

    for handle in metadata.AssemblyReferences do
        metadata.GetString(metadata.GetAssemblyReference(handle).Name)
]

[<Tests>]
let tests =
    testList "the house" [
        testCase "a project refers to none that stands below it" (fun () ->
            let names = List.map fst house

            for place, project in List.indexed names do
                let referred = items "ProjectReference" project |> List.map Path.GetFileNameWithoutExtension
                let above = List.take place names
                Expect.containsAll above referred project

                let ours = used project |> List.filter (fun name -> name.StartsWith "LayerSkip")
                Expect.containsAll above ours $"{project}.dll")

        testCase "folders follow one another in the order of compilation" (fun () ->
            for project, folders in house do
                if not folders.IsEmpty then
                    let found =
                        compiled project
                        |> List.map (fun file -> Path.GetDirectoryName(file).Replace('\\', '/'))

                    let runs =
                        found
                        |> List.fold
                            (fun runs folder ->
                                if List.tryHead runs = Some folder then
                                    runs
                                else
                                    folder :: runs)
                            []
                    Expect.equal (List.rev runs) folders project)

        testCase "every source is compiled, and has 350 lines at most" (fun () ->
            for project, folders in house do
                let found = sources project

                if not folders.IsEmpty then
                    Expect.equal (List.sort found) (List.sort (compiled project)) project

                for file in found do
                    let lines = File.ReadAllLines(Path.Combine(folder project, file)).Length
                    Expect.isLessThan lines 351 $"{project}/{file}")

        testCase "formats know no torch, kernels nothing, and nobody a plotting library" (fun () ->
            for project, _ in house do
                let used = used project |> List.filter (fun name -> name <> "FSharp.Core")
                let knows (name: string) = List.contains name used
                // plotly.js is a resource of LayerSkip.Study; the assembly that it comes in needs a newer FSharp.Core.
                Expect.isFalse (knows "Plotly.NET" || knows "OxyPlot") $"{project}: plots"
                Expect.equal (knows "Argu") (project = "LayerSkip.Cli") $"{project}: arguments"

                if project = "LayerSkip.Formats" || project = "LayerSkip.Kernels" then
                    Expect.isFalse (knows "TorchSharp") $"{project}: torch")

        testCase "tests of the formats run where no libtorch lies" (fun () ->
            let tests = Path.Combine(root, "tests", "LayerSkip.Formats.Tests", "bin", "Release", "net10.0")

            let torch =
                Directory.GetFiles(tests, "*", SearchOption.AllDirectories)
                |> Array.filter (fun path ->
                    path.Contains("torch", System.StringComparison.OrdinalIgnoreCase))

            Expect.isEmpty torch "files of torch")
    ]
