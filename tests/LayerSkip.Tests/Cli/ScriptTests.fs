module LayerSkip.Tests.ScriptTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

/// Copies files of the checkout to the same places in a folder.
let private copy (folder: string) (names: string list) : unit =
    for name in names do
        let target = Path.Combine(folder, name)
        Directory.CreateDirectory(Path.GetDirectoryName target) |> ignore
        File.Copy(Path.Combine(Support.root, name), target)

/// A script that cannot write what it prints says so in a line.
let private isTold (name: string) (outcome: Outcome) =
    // Sources may be newer than what was built.
    let told = outcome.Error.Replace("building the library (once) ...\n", "").TrimEnd()
    Expect.equal (outcome.Code, told.Split('\n').Length) (1, 1) outcome.Error
    Expect.stringStarts told $"{name}: standard output cannot be written: No space left" "why"

[<Tests>]
let tests =
    testSequenced
    <| testList "scripts" [
        testCase
            "--help tells what there is where no library can be built, and a mistake is one line"
            (fun () ->
                withFolder (fun folder ->
                    // What --help may need, and nothing that a library could be made of.
                    copy folder [ "scripts/large.fsx"; "scripts/options.fsx"; "scripts/build.fsx" ]

                    let help = shell folder "dotnet fsi scripts/large.fsx -- --help"
                    Expect.equal (help.Code, help.Error) (0, "") "no fault"

                    for part in
                        [
                            "Loads a model of real size"
                            "dotnet fsi scripts/large.fsx --folder DIR\n"
                            "--layers N "
                            "151936\n"
                        ] do
                        Expect.stringContains help.Out part "what it is, an example, options, defaults"

                    let wrong = shell folder "dotnet fsi scripts/large.fsx --layer 3"
                    Expect.equal (wrong.Code, wrong.Out) (2, "") wrong.Error
                    Expect.stringContains
                        wrong.Error
                        "large: unknown option --layer; the options are"
                        "named"
                    Expect.equal (wrong.Error.TrimEnd().Split('\n').Length) 1 wrong.Error

                    isTold "large" (shell folder "dotnet fsi scripts/large.fsx -- --help > /dev/full")))

        testCase "what a script prints where nothing can be written ends it in a line" (fun () ->
            shell Support.root "dotnet fsi scripts/speculate.fsx --runs 1 --max-new-tokens 2 > /dev/full"
            |> isTold "speculate")

        testCase
            "speculate writes as many tokens as the library, though its manual must do without the library"
            (fun () ->
                let script = File.ReadAllText(Path.Combine(Support.root, "scripts/speculate.fsx"))
                let told = $"\"--max-new-tokens N\", \"{GenerationOptions.defaults.MaxNewTokens}\""
                Expect.stringContains script told "the default"

                let policies = DraftPolicyKind.all |> List.map DraftPolicyKind.name |> String.concat "|"
                let policy = $"\"--policy {policies}\", \"{DraftPolicyKind.name Drafting.defaultPolicy};"
                Expect.stringContains script policy "the policies, and which of them it is"

                for drafter in List.map DrafterKind.name DrafterKind.all do
                    Expect.isMatch script $"\"--drafter [a-z|]*{drafter}" "the drafters")

        testCase
            "speculate drafts as the command does, and names its options where they are at fault"
            (fun () ->
                let speculate line =
                    shell
                        Support.root
                        $"dotnet fsi scripts/speculate.fsx --runs 1 --max-new-tokens 12 {line}"

                let outcome =
                    speculate
                        "--drafter cascade --exit-layer 2 --stop-rule confidence:0.2 --draft-vocabulary 200 --past-texts README.md"

                Expect.equal outcome.Code 0 outcome.Error

                for word in
                    [
                        "texts              equal"
                        "drafter cascade"
                        "stop rule          confidence:0.2"
                    ] do
                    Expect.stringContains outcome.Out word word

                for line, words in
                    [
                        "--exit-layer 99", "speculate: --exit-layer is 99, it must be 1 to 23"
                        "--layers-kept 2", "speculate: --layers-kept is a set without layer 1"
                        "--adapter-file models --drafter adapter", "models/adapter.safetensors: not found"
                    ] do
                    let outcome = speculate line
                    let told = outcome.Error.TrimEnd()
                    Expect.equal (outcome.Code, told.Split('\n').Length) (2, 1) $"{line}: {told}"
                    Expect.stringContains told words line)

        testCase
            "a number that a script reads without asking whether it was given is one where it was not"
            (fun () ->
                for path in Directory.GetFiles(Path.Combine(Support.root, "scripts"), "*.fsx") do
                    let script = File.ReadAllText path

                    let defaults =
                        Map.ofSeq [
                            for told in Regex.Matches(script, "\"(--[a-z-]+) [^\"]*\",\\s*\"([^\"]*)\"") do
                                told.Groups[1].Value, told.Groups[2].Value
                        ]

                    for read in Regex.Matches(script, "given\\.Wholes? ?\\(?\"(--[a-z-]+)\"") do
                        let name = read.Groups[1].Value
                        let told = (defaults[name].Split ' ')[0]

                        for number in told.Split ',' do
                            Expect.isSome (Number.tryWhole number) $"{path}: {name} is {defaults[name]}")

        testCase "a source at any depth, of any project of the library, makes it stale" (fun () ->
            withFolder (fun folder ->
                copy folder [ "scripts/build.fsx" ]

                let write (name: string) (text: string) =
                    let path = Path.Combine(folder, name)
                    Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
                    File.WriteAllText(path, text)
                    File.SetLastWriteTimeUtc(path, DateTime(2020, 1, 1))

                let refersTo (names: string list) =
                    let reference name = $"<ProjectReference Include=\"../{name}\" />"
                    $"""<Project><ItemGroup>{names |> List.map reference |> String.concat ""}</ItemGroup></Project>"""

                write "src/A/A.csproj" (refersTo [])
                write "src/B/B.fsproj" (refersTo [ @"A\A.csproj" ])
                write "src/LayerSkip.Study/LayerSkip.Study.fsproj" (refersTo [ "B/B.fsproj"; "A/A.csproj" ])

                for dll in [ "A"; "B"; "LayerSkip.Study" ] do
                    write $"src/LayerSkip.Study/bin/Release/net10.0/{dll}.dll" ""

                // A file, and whether it makes the library stale: where it was not there before, and then touched.
                let cases = [
                    "src/LayerSkip.Study/Model/Deeper/Rope.fs", true
                    "src/LayerSkip.Study/Model.fs", true
                    "src/B/Config/Config.fsi", true
                    "src/A/Tiles/Tiles.cs", true
                    "src/A/A.csproj", true
                    "Directory.Build.props", true
                    "src/B/README.md", false
                    "src/B/obj/Release/Made.fs", false
                    "src/LayerSkip.Study/bin/Made.cs", false
                    "src/Other/Other.fs", false
                ]

                for name, _ in cases do
                    if not (File.Exists(Path.Combine(folder, name))) then
                        write name ""

                let script = [
                    "#load \"scripts/build.fsx\""
                    "let state () = printf \"%b \" (Build.isStale ())"
                    "let touch (file: string) year = System.IO.File.SetLastWriteTimeUtc(file, System.DateTime(year, 1, 1))"
                    "state ()"
                    for name, _ in cases do
                        $"touch \"{name}\" 2021"
                        "state ()"
                        $"touch \"{name}\" 2020"
                    "System.IO.File.Delete \"src/LayerSkip.Study/bin/Release/net10.0/A.dll\""
                    "state ()"
                ]

                File.WriteAllLines(Path.Combine(folder, "states.fsx"), script)
                let told = shell folder "dotnet fsi --quiet states.fsx"
                Expect.equal told.Error "" "no fault"

                Expect.equal
                    (told.Out.Trim().Split ' ' |> List.ofArray)
                    (false :: List.map snd cases @ [ true ] |> List.map (string >> _.ToLowerInvariant()))
                    "each on its own"))
    ]
