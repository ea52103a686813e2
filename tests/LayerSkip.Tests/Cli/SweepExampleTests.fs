module LayerSkip.Tests.SweepExampleTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

/// A part of a YAML document, of the subset that the example keeps to: block maps, block lists, plain and quoted scalars, literals.
type private Yaml =
    | Scalar of string
    | List of Yaml list
    | Map of (string * Yaml) list

let private indent (line: string) = line.Length - line.TrimStart().Length
let private isBlank (line: string) = line.Trim() = "" || line.TrimStart().StartsWith '#'

let private scalar (text: string) (deeper: string list) : Yaml =
    Expect.isEmpty (List.filter (isBlank >> not) deeper) $"nothing under {text}"
    Expect.isFalse ("{[&*>!".Contains text[0]) $"of the subset: {text}"
    Scalar(text.Trim '"')

let private literal (deeper: string list) : Yaml =
    let depth = deeper |> List.filter (fun line -> line.Trim() <> "") |> List.map indent |> List.min
    Scalar(String.concat "\n" [ for line in deeper -> if line.Trim() = "" then "" else line[depth..] ])

/// The node of lines that all stand at least so far in; anything beyond the subset fails.
let rec private parse (lines: string list) : Yaml =
    match lines |> List.filter (isBlank >> not) with
    | [] -> failtest "there is a value"
    | first :: _ ->
        let depth = indent first

        /// Groups that begin at the depth, each with what stands deeper.
        let rec groups (lines: string list) =
            match lines with
            | [] -> []
            | line :: rest when isBlank line -> groups rest
            | line :: rest ->
                Expect.equal (indent line) depth $"stands under its like: {line}"
                let own = rest |> List.takeWhile (fun line -> line.Trim() = "" || indent line > depth)
                (line.Trim(), own) :: groups (List.skip own.Length rest)

        if first.Trim().StartsWith "- " then
            List [
                for line, deeper in groups lines do
                    Expect.stringStarts line "- " "an item"
                    let inner = line[2..].Trim()

                    if inner = "|" then
                        literal deeper
                    elif inner.Contains ": " || inner.EndsWith ':' then
                        parse (String(' ', depth + 2) + inner :: deeper)
                    else
                        scalar inner deeper
            ]
        else
            Map [
                for line, deeper in groups lines do
                    let at = line.IndexOf ':'
                    Expect.isGreaterThan at 0 line
                    let value = line[at + 1 ..].Trim()

                    line[.. at - 1],
                    (if value = "" then parse deeper
                     elif value = "|" then literal deeper
                     else scalar value deeper)
            ]

/// The value at a path of keys and places.
let rec private at (path: string list) (yaml: Yaml) : Yaml =
    match path, yaml with
    | [], found -> found
    | key :: rest, Map fields -> fields |> List.find (fst >> (=) key) |> snd |> at rest
    | place :: rest, List items -> at rest items[int place]
    | _ -> failtest $"nothing at %A{path}"

let private text (path: string) (yaml: Yaml) =
    match at (List.ofArray (path.Split '.')) yaml with
    | Scalar text -> text
    | other -> failtest $"{path} is %A{other}"

let private example (name: string) = Path.Combine(root, "docs", "examples", name)

/// In the shell: a `layerskip` that only tells its arguments, a line each, and an empty one after them.
let private telling =
    """
mkdir bin
printf '#!/usr/bin/env bash\nprintf "%%s\\n" "$@" "" >> "$TOLD"\n' > bin/layerskip
chmod +x bin/layerskip
export TOLD=$PWD/told PATH=$PWD/bin:$PATH
"""

/// The command lines that were told.
let private told (folder: string) : string list list =
    File.ReadAllText(Path.Combine(folder, "told")).Split("\n\n", StringSplitOptions.RemoveEmptyEntries)
    |> Array.map (fun command -> List.ofArray (command.Split '\n'))
    |> List.ofArray

let private counts (cells: RunCell list) = [
    for cell in cells ->
        [
            for made in (JsonDocument.Parse(cell.Json).RootElement.GetProperty "decodings").EnumerateArray() ->
                (made.GetProperty "rounds").GetRawText()
        ]
]

/// Runs the shards' command lines here, over a tiny model, and merges them: what one run counts.
let private mergesToOne (folder: string) (commands: string list list) =
    let tiny = [
        "--exit-layers"
        "1"
        "--draft-lengths"
        "2"
        "--max-new-tokens"
        "6"
        "--runs"
        "3"
    ]
    let model =
        if commands.Head |> List.contains "--model" then
            []
        else
            [ "--model"; folder ]

    let parts = [
        for command in commands do
            let outcome = cli (command @ model @ tiny)
            Expect.equal outcome.Code 0 outcome.Error
            command[1 + List.findIndex ((=) "--output") command]
    ]

    let header, merged = RunFile.merge parts |> Check.getOrRaise
    let whole = Path.Combine(folder, "whole.jsonl")
    let outcome = cli ([ "sweep"; "--model"; folder; "--output"; whole; "--threads"; "1" ] @ tiny)
    Expect.equal outcome.Code 0 outcome.Error
    let wholeHeader, cells = RunFile.read whole |> Check.getOrRaise
    Expect.equal (counts merged) (counts cells) "the same counts"
    Expect.equal header.Config wholeHeader.Config "the same run"

[<Tests>]
let tests =
    testSequenced
    <| testList "examples of sweeps" [
        testCase "the Slurm script is a script, and its tasks are the shards of one run" (fun () ->
            withModel (fun folder ->
                let script = example "sweep-slurm.sh"
                let source = File.ReadAllText script
                let directives = [
                    for line in source.Split '\n' do
                        if line.StartsWith "#SBATCH " then
                            line[8..]
                ]

                // Slurm reads no directive behind the first command.
                let firstCommand = source.IndexOf "\nset -euo"
                Expect.isLessThan (source.LastIndexOf "\n#SBATCH ") firstCommand "directives come first"
                Expect.contains directives "--array=1-8" "the tasks"

                let outcome =
                    shell
                        folder
                        $"""{telling}
bash -n '{script}' || exit 3
export MODEL='{folder}' RESULTS='{folder}/results' SLURM_CPUS_PER_TASK=1
for task in 1 2 3 4 5 6 7 8; do SLURM_ARRAY_TASK_ID=$task bash '{script}' --ignore-eos || exit 4; done
# Outside of an array it says what is missing.
if bash '{script}' 2>/dev/null; then exit 5; fi"""

                Expect.equal outcome.Code 0 outcome.Error
                let commands = told folder
                Expect.equal commands.Length 8 "a command for each task"
                mergesToOne folder commands))

        testCase "the Kubernetes Job is one, and its pods are the shards of one run" (fun () ->
            withModel (fun folder ->
                let job = File.ReadAllLines(example "sweep-kubernetes.yaml") |> List.ofArray |> parse
                Expect.equal (text "apiVersion" job, text "kind" job) ("batch/v1", "Job") "kind"
                Expect.equal (text "spec.completionMode" job) "Indexed" "each pod has an index"
                let completions = int (text "spec.completions" job)
                Expect.isLessThanOrEqual (int (text "spec.parallelism" job)) completions "no pod too many"
                let pod = at [ "spec"; "template"; "spec" ] job
                Expect.equal (text "restartPolicy" pod) "Never" "a Job allows Never and OnFailure"
                let container = at [ "containers"; "0" ] pod
                Expect.equal (at [ "command" ] container) (List [ Scalar "bash"; Scalar "-c" ]) "a shell"
                Expect.equal
                    (text "volumeMounts.0.name" container)
                    (text "volumes.0.name" pod)
                    "the volume is mounted"
                Expect.equal
                    (text "env.0.value" container)
                    (text "volumeMounts.0.mountPath" container)
                    "and written to"
                Expect.equal
                    (at [ "resources"; "limits" ] container)
                    (at [ "resources"; "requests" ] container)
                    "guaranteed"
                let script = Path.Combine(folder, "pod.sh")
                File.WriteAllText(script, text "args.0" container)

                let outcome =
                    shell
                        folder
                        $"""{telling}
mkdir results; bash -n pod.sh || exit 3
export RESULTS='{folder}/results'
for index in $(seq 0 {completions - 1}); do JOB_COMPLETION_INDEX=$index bash -c "$(cat pod.sh)" || exit 4; done"""

                Expect.equal outcome.Code 0 outcome.Error
                let commands = told folder
                Expect.equal commands.Length completions "a command for each pod"
                mergesToOne folder commands))
    ]
