// The command line of a script: --name VALUE pairs, checked against its options. What is wrong is one line and exit code 2.
// Only `orStop` needs the library, so that --help need not wait until it is built.
module Options

#if !READY
#load "../src/LayerSkip/Number.fs"
#else
#r "../src/LayerSkip/bin/Release/net10.0/LayerSkip.dll"
#endif

open System
open System.IO
open LayerSkip

let private script = Path.GetFileName fsi.CommandLineArgs[0]
let private root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))

let stop (code: int) (message: string) : 'T =
    eprintfn "%s: %s" (Path.GetFileNameWithoutExtension script) message
    exit code

#if READY
let orStop (result: Result<'T, LayerSkipError list>) : 'T =
    match result with
    | Ok value -> value
    | Error faults -> stop 2 (LayerSkipError.summary faults)
#endif

/// The options that were given, or their defaults. `options` are all there are: "--runs N", and what it is where it is not
/// given. Paths of the defaults are those of the project.
type Given(options: (string * string) list) =
    let nameOf (option: string) = (option.Split ' ')[0]
    let defaults = Map.ofList [ for option, fallback in options -> nameOf option, fallback ]
    let usage = options |> List.map fst |> String.concat " "

    // A script says at its beginning what it does, with examples.
    let help () =
        let about =
            File.ReadLines fsi.CommandLineArgs[0]
            |> Seq.takeWhile _.StartsWith("//")
            |> Seq.map (fun line -> line[2..].TrimEnd())

        let width = options |> List.map (fun (option, _) -> option.Length) |> List.max

        [
            for line in about do
                if line.StartsWith ' ' then line[1..] else line

            ""
            "Options, and what they are where they are not given:"
            ""

            for option, fallback in options do
                $"    {option.PadRight width}  {fallback}"
        ]
        |> List.iter (printfn "%s")

    let rec pairs (arguments: string list) =
        match arguments with
        | ("--help" | "-h") :: _ ->
            help ()
            exit 0
        | name :: value :: rest when Map.containsKey name defaults -> (name, value) :: pairs rest
        | [ name ] when Map.containsKey name defaults ->
            stop 2 $"{name} needs a value; the options are {usage}"
        | name :: _ -> stop 2 $"unknown option {name}; the options are {usage}"
        | [] -> []

    let given =
        fsi.CommandLineArgs[1..]
        |> Array.filter (fun argument -> argument <> "--")
        |> List.ofArray
        |> pairs
        |> Map.ofList

    let whole (name: string) (least: int) (text: string) =
        match Number.tryWhole text with
        | Some value when value >= least -> value
        | _ when least = Int32.MinValue -> stop 2 $"{name} is {text}, it must be a whole number"
        | _ -> stop 2 $"{name} is {text}, it must be a whole number, {least} or more"

    member _.TryText(name: string) : string option = Map.tryFind name given

    member _.TryWhole(name: string, least: int) : int option =
        Map.tryFind name given |> Option.map (whole name least)

    member this.Text(name: string) : string = this.TryText name |> Option.defaultValue defaults[name]

    member this.Path(name: string) : string =
        this.TryText name
        |> Option.defaultWith (fun () -> Path.GetFullPath(Path.Combine(root, defaults[name])))

    member this.Whole(name: string, least: int) : int = whole name least (this.Text name)

    /// A number above 0.
    member this.Real(name: string) : float =
        let text = this.Text name

        match Number.tryReal text with
        | Some value when value > 0.0 -> value
        | _ -> stop 2 $"{name} is {text}, it must be a number above 0; write it as 0.5"
