namespace LayerSkip

open System
open System.IO
open System.Runtime.InteropServices
open Microsoft.Win32.SafeHandles

/// A native library that is changed before it is loaded. What is loaded is what was compared or written through one open
/// file of ours, never a path that somebody else may have got hold of.
[<RequireQualifiedAccess>]
module internal PatchedLibrary =
    /// Sets VER_FLG_WEAK on each need of `tag` in an ELF64 file's .gnu.version_r; returns how many it set.
    let weaken (elf: byte[]) (tag: string) : int =
        let u16 at = int (BitConverter.ToUInt16(elf, at))
        let u32 at = int (BitConverter.ToUInt32(elf, at))
        let u64 at = int (BitConverter.ToUInt64(elf, at))
        let section index = u64 0x28 + index * u16 0x3A
        let isNeeds index = u32 (section index + 4) = 0x6ffffffe

        let text at = Text.Encoding.ASCII.GetString(elf, at, Array.IndexOf(elf, 0uy, at) - at)

        let rec follow count at nextAt visit =
            if count > 0 then
                visit at
                follow (count - 1) (at + u32 (at + nextAt)) nextAt visit

        let mutable changed = 0

        for index in Seq.filter isNeeds (seq { 0 .. u16 0x3C - 1 }) do
            let strings = u64 (section (u32 (section index + 40)) + 24)

            follow (u32 (section index + 44)) (u64 (section index + 24)) 12 (fun need ->
                follow (u16 (need + 2)) (need + u32 (need + 8)) 12 (fun entry ->
                    if text (strings + u32 (entry + 8)) = tag then
                        elf[entry + 4] <- elf[entry + 4] ||| 2uy
                        changed <- changed + 1))

        changed

    [<DllImport("libc", SetLastError = true)>]
    extern int private memfd_create(byte[] name, uint32 flags)

    /// A library as it is, by its path or by the name that the system knows it under; None where it does not load.
    let tryLoadAsIs (path: string) : nativeint option =
        match NativeLibrary.TryLoad path with
        | true, library -> Some library
        | _ -> None

    let private loadOpen (file: SafeFileHandle) : nativeint option =
        tryLoadAsIs $"/proc/self/fd/{file.DangerousGetHandle()}"

    let private refused (e: exn) =
        e :? IOException || e :? UnauthorizedAccessException || e :? ArgumentException

    /// Where the user's programs keep data of their own, if that is there: a copy for where no file can be made.
    let cachePath (elf: byte[]) : string option =
        match Environment.GetFolderPath Environment.SpecialFolder.LocalApplicationData with
        | folder when Path.IsPathRooted folder ->
            let hash = Convert.ToHexStringLower(Security.Cryptography.SHA256.HashData elf)
            Some(Path.Combine(folder, "layerskip", $"libLibTorchSharp-{hash.Substring(0, 16)}.so"))
        | _ -> None

    // A file that others may write, or that is not byte for byte ours, is as good as none.
    let private loadIfOurs (elf: byte[]) (path: string) : nativeint option =
        if PathKind.find path <> PathKind.RegularFile then
            None
        else
            use file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read)

            let isOurs =
                PathKind.isOnlyOurs $"/proc/self/fd/{file.SafeFileHandle.DangerousGetHandle()}"
                && file.Length = elf.LongLength
                && (let found = Array.zeroCreate<byte> elf.Length
                    file.ReadExactly found
                    found.AsSpan().SequenceEqual elf)

            if isOurs then loadOpen file.SafeFileHandle else None

    let private fromCache (elf: byte[]) : nativeint option =
        let ours = enum<UnixFileMode> 0o700

        cachePath elf
        |> Option.bind (fun path ->
            loadIfOurs elf path
            |> Option.orElseWith (fun () ->
                Directory.CreateDirectory(Path.GetDirectoryName path, ours) |> ignore
                File.Delete path

                match AtomicFile.writeBytes path elf with
                | Ok() ->
                    File.SetUnixFileMode(path, ours)
                    loadIfOurs elf path
                | Error _ -> None))

    let private fromMemory (elf: byte[]) : nativeint option =
        let closeOnStart = 1u

        match memfd_create ("libLibTorchSharp.so\000"B, closeOnStart) with
        | -1 -> None
        | descriptor ->
            use file = new FileStream(new SafeFileHandle(nativeint descriptor, true), FileAccess.Write)
            file.Write elf
            file.Flush()
            loadOpen file.SafeFileHandle

    // A folder of a name that nobody could foresee and nobody else can enter, gone as soon as the library is loaded.
    let private fromNewFolder (elf: byte[]) : nativeint option =
        let folder = Directory.CreateTempSubdirectory "layerskip-"

        try
            let path = Path.Combine(folder.FullName, "libLibTorchSharp.so")
            File.WriteAllBytes(path, elf)
            tryLoadAsIs path
        finally
            folder.Delete true

    /// Loads a library of which each need of `tag` is marked weak: from the user's data, from memory, or from a folder
    /// that is gone at once, whichever goes first. None where the system lets no such file be made.
    let tryLoad (path: string) (tag: string) : nativeint option =
        let elf = File.ReadAllBytes path
        weaken elf tag |> ignore

        [ fromCache; fromMemory; fromNewFolder ]
        |> List.tryPick (fun load ->
            try
                load elf
            with e when refused e ->
                None)
