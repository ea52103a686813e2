// Makes the pictures of docs again: docs/ablation.svg and docs/pictures/training.svg from the tables of docs/experiments.md, and
// docs/pictures/*.png from what the command draws, photographed by headless chromium. `dotnet build -c Release` comes first.
//
//     dotnet fsi scripts/pictures.fsx
//     dotnet fsi scripts/pictures.fsx --chromium /usr/bin/chromium
#load "options.fsx"

open Options

let given = Given [ ("--chromium PATH", "/usr/bin/chromium") ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open System.Globalization
open System.IO
open LayerSkip

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let inRoot (path: string) = Path.Combine(root, path)
let made = Directory.CreateDirectory(inRoot "docs/pictures").FullName
let scratch = Directory.CreateTempSubdirectory("layerskip-pictures-").FullName

/// The table of a Markdown file that begins with such a row: each row's numbers, "1.1 %" as 0.011.
let table (file: string) (first: string) : float list list =
    let number (cell: string) =
        match cell.Trim() with
        | "" -> nan
        | cell when cell.EndsWith '%' -> float (cell.TrimEnd('%', ' ')) / 100.0
        | cell -> Double.Parse(cell, CultureInfo.InvariantCulture)

    File.ReadAllLines(inRoot file)
    |> Seq.skipWhile (fun line -> not (line.StartsWith first))
    |> Seq.skip 2
    |> Seq.takeWhile _.StartsWith('|')
    |> Seq.map (fun line -> line.Trim('|').Split '|' |> Array.map number |> List.ofArray)
    |> List.ofSeq

let column index (rows: float list list) = [ for row in rows -> int row.Head, row[index] ]
let save (path: string) picture = Plots.save path "" [ PagePart.Drawn picture ] |> orStop

let ablation = table "docs/experiments.md" "| exit | none | dropout"

LayerPlots.crossEntropy
    "8 layers, hidden 128, from scratch on 1.2 million tokens of TinyStories, p_max 0.2, e_scale 1, one seed"
    [
        for i, name in List.indexed [ "none"; "dropout"; "loss"; "both"; "constant dropout and loss" ] do
            name, column (i + 1) ablation
    ]
|> save (inRoot "docs/ablation.svg")

let continual = table "docs/experiments.md" "| exit | cross entropy before"

LayerPlots.crossEntropy "stories260K, 5 layers, TinyStories' first 100 validation stories (34,101 tokens)" [
    "before", column 1 continual
    "after it learned to exit early", column 2 continual
]
|> save (Path.Combine(made, "training.svg"))

let run (program: string) (arguments: string list) =
    let start =
        ProcessStartInfo(
            program,
            arguments,
            WorkingDirectory = root,
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )
    use running = Process.Start start
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()
    running.WaitForExit()

    if running.ExitCode <> 0 then
        stop 1 $"{program}: {errors.Result.Trim()}{output.Result.Trim()}"

let chromium = given.Text "--chromium"

/// What a page looks like, light, in a window of such a size. The flags keep chromium from asking its net for anything.
let photograph (page: string) (picture: string) (width: int, height: int) =
    run chromium [
        "--headless"
        "--no-sandbox"
        "--disable-gpu"
        "--disable-quic"
        "--no-first-run"
        "--disable-background-networking"
        "--disable-component-update"
        "--disable-sync"
        "--hide-scrollbars"
        "--blink-settings=preferredColorScheme=1"
        $"--user-data-dir={scratch}/profile"
        $"--window-size={width},{height}"
        "--virtual-time-budget=8000"
        $"--screenshot={picture}"
        $"file://{page}"
    ]

let command = inRoot "src/LayerSkip.Cli/bin/Release/net10.0/LayerSkip.Cli.dll"

/// The name of a picture, the command that draws it, and its size.
let pages = [
    "tokens",
    [
        "generate"
        "--prompt"
        "Once upon a time, there was a boy named Tim."
        "--max-new-tokens"
        "120"
    ],
    (1000, 560)
    "lens",
    [
        "lens"
        "--prompt"
        "Once upon a time, there was a little girl named Lily. She loved to play"
    ],
    (1300, 900)
    "bench", [ "bench"; "--runs"; "5" ], (1000, 1240)
    "certificate", [ "certify"; "--max-new-tokens"; "16" ], (1000, 920)
    "replay",
    [
        "replay"
        "--prompt"
        "Once upon a time"
        "--max-new-tokens"
        "200"
        "--ignore-eos"
    ],
    (1000, 800)
]

if not (File.Exists chromium) then
    stop 2 $"{chromium} is not there; install Debian's chromium, or name another with --chromium"

try
    for name, arguments, size in pages do
        let page = Path.Combine(scratch, name + ".html")
        run "dotnet" (command :: arguments @ [ "--html"; page ])
        photograph page (Path.Combine(made, name + ".png")) size
        printfn $"docs/pictures/{name}.png"
finally
    Directory.Delete(scratch, true)
#endif
