// The command line of a script: --name VALUE pairs, checked against its options. What is wrong is one line and exit code 2.
// Only values need the library, so that --help need not wait until it is built.
module Options

#if READY
#load "library.fsx"
#endif

open System
open System.IO

let private script = Path.GetFileName fsi.CommandLineArgs[0]
let private root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))

let stop (code: int) (message: string) : 'T =
    eprintfn "%s: %s" (Path.GetFileNameWithoutExtension script) message
    exit code

/// Standard output, of which a fault ends the script in a line.
type private Output(inner: TextWriter) =
    inherit TextWriter()

    let orStop (write: unit -> unit) =
        try
            write ()
        with :? IOException as e ->
            stop 1 $"standard output cannot be written: {e.Message.TrimEnd '.'}; send it elsewhere"

    override _.Encoding = inner.Encoding
    override _.Write(letter: char) = orStop (fun () -> inner.Write letter)
    override _.Write(text: string) = orStop (fun () -> inner.Write text)

    override _.Write(letters: char[], index: int, count: int) =
        orStop (fun () -> inner.Write(letters, index, count))

Console.SetOut(new Output(Console.Out))

#if READY
open LayerSkip

/// The names of the script's options, once it has told them.
let mutable private names: Set<string> = Set.empty

let orStop (result: Result<'T, LayerSkipError list>) : 'T =
    match result with
    | Ok value -> value
    | Error faults ->
        let typed option =
            if names.Contains $"--{option}" then
                $"--{option}"
            else
                option

        stop 2 (faults |> List.map (LayerSkipError.withOptions typed) |> LayerSkipError.summary)

/// A model that is named as on a hub is brought; a path stays.
let private located (text: string) =
    let tell progress =
        match progress with
        | HubProgress.Remark remark -> eprintfn "%s" remark
        | HubProgress.Transfer _ -> ()

    (Hub.locate text tell Threading.CancellationToken.None).Result |> orStop
#else
let private located (text: string) = text
#endif

/// The options that were given, or their defaults. `options` are all there are: "--runs N", and what it is where it is not
/// given; one without a value, "--quick", is given or not. Paths of the defaults are those of the project.
type Given(options: (string * string) list) =
    let nameOf (option: string) = (option.Split ' ')[0]
    let defaults = Map.ofList [ for option, fallback in options -> nameOf option, fallback ]
    let usage = options |> List.map fst |> String.concat " "
#if READY
    do names <- defaults.Keys |> Set.ofSeq
#endif
    let isFlag name = options |> List.exists (fun (option, _) -> option = name)

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
        | name :: rest when isFlag name -> (name, "") :: pairs rest
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

    member _.TryText(name: string) : string option = Map.tryFind name given

    member this.Text(name: string) : string = this.TryText name |> Option.defaultValue defaults[name]

    /// The number that was given, or that the default begins with: "2 of each kind".
    member private this.Number(name: string) : string =
        this.TryText name |> Option.defaultWith (fun () -> (defaults[name].Split ' ')[0])

    member this.Path(name: string) : string =
        match this.TryText name with
        | Some text when name = "--model" -> located text
        | Some text -> text
        | None -> Path.GetFullPath(Path.Combine(root, defaults[name]))

#if READY
    member private _.Checked(name: string, least: int, text: string) : int =
        match Number.tryWhole text with
        | Some value when value >= least -> value
        | _ when least = Int32.MinValue -> stop 2 $"{name} is {text}, it must be a whole number"
        | _ -> stop 2 $"{name} is {text}, it must be a whole number, {least} or more"

    member this.TryWhole(name: string, least: int) : int option =
        Map.tryFind name given |> Option.map (fun text -> this.Checked(name, least, text))

    member this.Whole(name: string, least: int) : int = this.Checked(name, least, this.Number name)

    member private _.Many(name: string, least: int, most: int, text: string) : int list =
        let what =
            match least, most with
            | Int32.MinValue, _ -> "whole numbers"
            | _, Int32.MaxValue -> $"whole numbers, {least} or more,"
            | _ -> $"whole numbers from {least} to {most}"

        [
            for item in text.Split(',', StringSplitOptions.TrimEntries) ->
                match Number.tryWhole item with
                | Some value when value >= least && value <= most -> value
                | _ -> stop 2 $"{name} is {text}, it must be {what} with commas between"
        ]

    /// Whole numbers with commas between, each from `least` to `most`.
    member this.TryWholes(name: string, least: int, most: int) : int list option =
        Map.tryFind name given |> Option.map (fun text -> this.Many(name, least, most, text))

    member this.Wholes(name: string, least: int, most: int) : int list =
        this.Many(name, least, most, this.Number name)

    /// A number above 0.
    member this.Real(name: string) : float =
        let text = this.Number name

        match Number.tryReal text with
        | Some value when value > 0.0 -> value
        | _ -> stop 2 $"{name} is {text}, it must be a number above 0; write it as 0.5"
#endif
